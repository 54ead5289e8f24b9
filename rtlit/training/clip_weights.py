"""What rtlit asks of open_clip, and weights of its models: import it quietly, fetch, read, or draw them."""

from __future__ import annotations

import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rtlit.errors import RtlitError, WeightsError

LIGHTING = "rtlit-lighting"
_CONNECT_SECONDS = 5.0


def import_open_clip() -> Any:
    """The module open_clip.

    PyPI's torchvision can't be imported beside torch's CPU-only build: its C++ operators (nms, qnms) are built for
    another torch, and giving them a fake implementation fails as they don't exist. open_clip calls none of them, so
    they are declared here, without an implementation, until the import succeeds.

    Raises:
        RtlitError: it isn't installed.
    """
    try:
        while not _import_torchvision():
            pass
        import open_clip
    except ModuleNotFoundError as error:
        raise RtlitError(f"CLIP needs {error.name}: pip install 'rtlit[train]'") from None
    return open_clip


def _import_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        missing = re.search(r"operator (torchvision::\w+) does not exist", str(error))
        if missing is None:
            raise
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        torch.library.define(missing[1], "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return False
    return True


def create(open_clip: Any, name: str, quick_gelu: bool = False) -> Any:
    """A model with random weights, the same every time; the global random state stays as it was."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.create_model(name, force_quick_gelu=quick_gelu, pretrained_text=False)


def read(open_clip: Any, name: str, path: Path, quick_gelu: bool) -> Any:
    try:
        with quiet():
            if not is_archive(path):
                return open_clip.create_model(name, pretrained=str(path), force_quick_gelu=quick_gelu)
            state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        for size in ("input_resolution", "context_length", "vocab_size"):
            state.pop(size, None)
        model = create(open_clip, name, quick_gelu)
        model.load_state_dict(state)
        return model
    except Exception as error:  # whatever the damage leads to
        raise WeightsError(f"{path}: not weights of {name}: damaged, or another model's ({short(error)})") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which is what OpenAI published and torch.load refuses."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("constants.pkl") for name in file.namelist())


def fetch(open_clip: Any, name: str, tag: str, config: dict[str, Any], option: str) -> Path:
    """The file of a tag's weights, from Hugging Face's cache or else its hub.

    The hub's own downloader tries to connect six times, for 23 s a file without a network: ask once before.
    """
    import huggingface_hub as hub

    repository, _, file = config["hf_hub"].rpartition("/")
    safe = [file[:-4] + ".safetensors"] if file.endswith((".bin", ".pth")) else []
    files = [*safe, file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for file in files:
        if isinstance(cached := hub.try_to_load_from_cache(repository, file), str):
            return Path(cached)
    reason = Exception()
    for file in files:
        try:
            with quiet():
                hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=_CONNECT_SECONDS)
                return Path(hub.hf_hub_download(repository, file))
        except Exception as error:  # no such file, no network, a proxy that refuses, a full disk
            reason = error
            if not isinstance(error, hub.errors.EntryNotFoundError):
                break
    model = twin(open_clip, name) if config.get("quick_gelu") else name
    raise WeightsError(
        f"{name}: can't fetch the weights {tag!r} ({short(reason)}); download "
        f"{files[0]} of {repository} from Hugging Face on another machine, and give "
        f"{option} {model} {option}-weights FILE; or use {option} {LIGHTING}, which needs no download"
    )


def twin(open_clip: Any, name: str) -> str:
    """The name of the same model with QuickGELU, if it has one."""
    twin = f"{name}-quickgelu"
    return twin if twin in open_clip.list_models() else name


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from logging and warning; open_clip logs through the root logger, which would set that up."""
    root, before, handler = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)


def short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
