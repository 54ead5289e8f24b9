"""CLIP through open_clip: frozen image and text encoders, whatever the architecture.

    images [B, 3, H, W] ── encode_image ──→ [B, E] ─┐
    images ── features → stem, layer1 … layer4      ├ cosine similarity
    texts ── tokenize → [B, L] ── encode_text → [B, E]
               embed_tokens → [B, L, W] ── encode_embeddings → [B, E]

No parameter of a `Clip` learns; gradients flow through it to images and to token embeddings.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtlit.errors import UsageError, WeightsError
from rtlit.training.clip_weights import LIGHTING, create, fetch, import_open_clip, is_archive, quiet, read, short, twin

RANDOM = "random"
_LOG = logging.getLogger(__name__)


class Clip(nn.Module):
    """A frozen contrastive image and text model; always in evaluation mode.

    On CUDA devices with bfloat16 the image tower runs in it under autocast: it has float32's range, so gradients need
    no scaling. The text tower, which sees two prompts an iteration, stays in float32. Results are float32.

    Args:
        model: `CLIP`, `CustomTextCLIP` or `CoCa` of open_clip.
        tokenizer: texts → tokens [B, L].
        name, weights: what `load_clip` was given, for logs and files.
        image_size: side of the square that pictures are resized to, in pixels.
        mean, std: of R'G'B', which the image tower expects taken off and divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        weights: str,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name, self.weights, self.image_size = name, weights, image_size
        self._tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        text = self.encode_text(["X"])
        self.dim, self.context_length = text.shape[1], self.tokenize(["X"]).shape[1]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    def train(self, mode: bool = True) -> Clip:
        """Stay in evaluation mode: batch statistics and dropout would change what is frozen."""
        return super().train(False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit-length embeddings [B, E] of R'G'B' images [B, 3, H, W] in 0 … 1, of any size; see `prepare`."""
        with self._autocast():
            features = self.model.encode_image(self.prepare(images))  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    def features(self, images: Tensor) -> list[Tensor]:
        """What the five stages of a ModifiedResNet image tower put out: stem (after its pool), layer1 … layer4.

        Args:
            images: R'G'B' [B, 3, H, W] in 0 … 1, of any size; see `prepare`.

        Returns:
            Five tensors [B, C, h, w], sides 1/4, 1/4, 1/8, 1/16 and 1/32 of `image_size`.

        Raises:
            UsageError: another kind of image tower.
        """
        tower: Any = self.model.visual
        if not self.has_features:
            raise UsageError(
                f"{self.name}: has no ResNet image tower, which the identity loss needs; "
                f"choose RN50, RN101 or {LIGHTING} as --identity"
            )
        stages, x = [], self.prepare(images)
        with self._autocast():
            for stage in (tower.stem, tower.layer1, tower.layer2, tower.layer3, tower.layer4):
                x = stage(x)
                stages.append(x.float())
        return stages

    @property
    def has_features(self) -> bool:
        """Whether the image tower is a ModifiedResNet, so that `features` works."""
        return all(hasattr(self.model.visual, stage) for stage in ("stem", "layer1", "layer2", "layer3", "layer4"))

    def prepare(self, images: Tensor) -> Tensor:
        """Resize to `image_size` squared (bicubic, antialiased, aspect ratio not kept), take off mean, divide by std.

        The few values beyond 0 … 1 that bicubic gives beside edges are kept: clamped pixels have no gradient.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        return (images - self.mean) / self.std

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token numbers [B, L] of texts, with start, end and padding; texts too long are cut."""
        return self._tokenizer(list(texts)).to(self.device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings [B, E] of texts."""
        features: Tensor = self.model.encode_text(self.tokenize(texts))  # type: ignore[operator]
        return F.normalize(features, dim=-1)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, L, W] of tokens [B, L]: what the text transformer sees, before positions are added."""
        embeddings: Tensor = self._token_embedding()(tokens)
        return embeddings

    def encode_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Unit-length embeddings [B, E] of token embeddings: exactly `encode_text` when those are of real tokens.

        open_clip's own code runs, with the output of its token embedding replaced, so every text tower works. The same
        bits without gradients; while they are recorded, attention without a mask takes another kernel (1e-7 apart).

        Args:
            embeddings: [B, L, W]; gradients flow to them.
            tokens: [B, L]: where the text ends, which is where the towers read their result or stop attending.
        """
        table = self._token_embedding()
        with table.register_forward_hook(lambda module, args, output: embeddings.to(output.dtype)):
            features: Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
        return F.normalize(features, dim=-1)

    def _token_embedding(self) -> nn.Module:
        table = getattr(getattr(self.model, "text", self.model), "token_embedding", None)
        if not isinstance(table, nn.Module):
            raise UsageError(f"{self.name}: its text tower isn't open_clip's own, so prompts can't be learned with it")
        return table

    def _autocast(self) -> torch.autocast:
        usable = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=usable)


def load_clip(
    name: str = "ViT-B-32",
    weights: str | None = None,
    device: str | torch.device = "cpu",
    *,
    option: str = "--clip",
) -> Clip:
    """Load a CLIP.

    Args:
        name: a model of open_clip; "local-dir:FOLDER", with open_clip_config.json and weights in the folder; or
            "rtlit-lighting", the compact one that rtlit brings.
        weights: a tag that open_clip knows; a file (safetensors, a state dict, OpenAI's own archive); "random", seeded,
            to try shapes and speed; or None: "openai", or what the model brings.
        option: of the command line that named it, for messages; with "-weights" it is that of the weights.

    Raises:
        UsageError: no such model, or no such weights for it. WeightsError: they can't be fetched or read.
        RtlitError: open_clip isn't installed.
    """
    open_clip = import_open_clip()
    if name == LIGHTING or name.startswith("local-dir:"):
        if weights not in (None, name):
            raise UsageError(f"{name}: brings its own weights; leave out {weights!r}")
        loaded = _load_lighting() if name == LIGHTING else _load_folder(open_clip, name)
        return loaded.to(device)
    if name not in open_clip.list_models():
        _unknown_model(open_clip, name)
    return _load_named(open_clip, name, weights or "openai", option).to(device)


def _load_lighting() -> Clip:
    from rtlit.training.lighting import load_lighting

    model, tokenizer, image_size, mean, std = load_lighting()
    return Clip(model, tokenizer, name=LIGHTING, weights=LIGHTING, image_size=image_size, mean=mean, std=std)


def _load_folder(open_clip: Any, name: str) -> Clip:
    """A model whose settings and weights lie in one folder, "local-dir:FOLDER"."""
    try:
        with quiet():
            model = open_clip.create_model(name, require_pretrained=True)
    except Exception as error:  # whatever the folder's state leads to
        raise WeightsError(f"{name}: can't load a CLIP from there ({short(error)})") from None
    return _wrap(open_clip, model, name, name, model.visual.preprocess_cfg)


def _load_named(open_clip: Any, name: str, weights: str, option: str) -> Clip:
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = open_clip.get_pretrained_cfg(name, weights)
    # Weights from a file, and random ones, take the mean and std that the model's own weights were trained with.
    preprocessing = tag or (open_clip.get_pretrained_cfg(name, tags[0]) if tags else _default_preprocessing(open_clip))
    if weights == RANDOM:
        return _wrap(open_clip, create(open_clip, name), name, weights, preprocessing)
    if tag:
        model = read(open_clip, name, fetch(open_clip, name, weights, tag, option), bool(tag.get("quick_gelu")))
        return _wrap(open_clip, model, name, weights, preprocessing)
    path = Path(weights)
    if not path.is_file():
        _unknown_weights(name, weights, tags)
    archive = is_archive(path)  # OpenAI's, trained with QuickGELU, x·σ(1.702·x)
    model = read(open_clip, name, path, archive)
    if not archive and twin(open_clip, name) != name:
        # No other file says which activation its weights were trained with, and they load with either.
        _LOG.warning(
            "%s: taken as trained with GELU; if with QuickGELU (OpenAI, MetaCLIP, DFN), choose %s-quickgelu", path, name
        )
    return _wrap(open_clip, model, name, str(path.absolute()), preprocessing)


def _wrap(open_clip: Any, model: Any, name: str, weights: str, preprocessing: dict[str, Any]) -> Clip:
    try:
        with quiet():
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # a tokenizer of another library, or one to be downloaded
        raise UsageError(f"{name}: its tokenizer can't be loaded here ({short(error)})") from None
    size = model.visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise UsageError(f"{name}: takes pictures of {width}×{height}, and only square ones are supported")
    mean, std = preprocessing["mean"], preprocessing["std"]
    return Clip(model, tokenizer, name=name, weights=weights, image_size=height, mean=mean, std=std)


def _default_preprocessing(open_clip: Any) -> dict[str, Any]:
    return {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}


def _unknown_model(open_clip: Any, name: str) -> NoReturn:
    names = [LIGHTING, *open_clip.list_models()]
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower().replace("/", "-"), lower, 3, 0.5)
    hint = f"did you mean {' or '.join(lower[match] for match in near)}?" if near else "for example ViT-B-32, RN101"
    raise UsageError(f"{name!r}: not a CLIP that open_clip knows; {hint}")


def _unknown_weights(name: str, weights: str, tags: Sequence[str]) -> NoReturn:
    known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
    raise UsageError(f"{weights!r}: neither a file nor a tag of {name}; {known}; {RANDOM} is for trying")
