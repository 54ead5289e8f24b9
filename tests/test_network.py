"""The network: sizes, cost, and what travels in a weights file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from rtlit import reference, weights
from rtlit.errors import UsageError, WeightsError
from rtlit.network import MAX_T, CurveNetwork, NetworkConfig, load_network, save_network


def trained(config: NetworkConfig | None = None) -> CurveNetwork:
    """A network whose head does something."""
    torch.manual_seed(0)
    network = CurveNetwork(config)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return network.eval()


FRAMES = [
    (720, 1280),
    (1080, 1920),
    (1920, 1080),
    (2160, 4096),
    (1000, 1000),
    (16, 16),
    (16, 4096),
    (37, 1000),
    (241, 427),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_thumbnails_are_whole_cells_of_the_frames_shape(frame: tuple[int, int]) -> None:
    config = NetworkConfig()
    size = config.thumbnail_size(*frame)
    assert max(size) == config.thumbnail and min(size) >= 16 and not any(side % 8 for side in size)
    if min(frame) * 8 >= max(frame):
        for side, of_frame in zip(size, frame, strict=True):
            assert abs(side - config.thumbnail * of_frame / max(frame)) <= 4
    with torch.inference_mode():
        assert trained()(torch.rand(2, 3, *size)).shape == (2, 3, 8, size[0] // 8, size[1] // 8)


def test_parameters_and_cost_are_within_the_budget() -> None:
    network = CurveNetwork()
    assert 100_000 <= sum(parameter.numel() for parameter in network.parameters()) <= 300_000
    for frame in [(1080, 1920), (1000, 1000)]:
        thumbnail = torch.rand(1, 3, *network.config.thumbnail_size(*frame))
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(thumbnail)
        assert 0 < counter.get_total_flops() <= 0.3e9  # multiplications and additions


def test_a_new_network_changes_nothing() -> None:
    grid = CurveNetwork()(torch.rand(1, 3, 72, 128))
    assert torch.equal(grid, torch.zeros(1, 3, 8, 9, 16))
    rgb = torch.rand(1, 3, 40, 60)
    torch.testing.assert_close(reference.enhance_rgb(rgb, reference.exponentiate(grid, 1)), rgb, atol=2e-7, rtol=0)


def test_estimates_are_bounded_and_batches_are_their_items() -> None:
    network = trained()
    thumbnails = torch.rand(4, 3, 72, 128)
    with torch.inference_mode():
        together = network(100 * thumbnails)
        assert float(together.abs().max()) <= MAX_T
        for item, alone in enumerate(map(network, thumbnails[:, None])):
            torch.testing.assert_close(network(thumbnails)[item : item + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [{"thumbnail": 100}, {"thumbnail": 8}, {"channels": 2}, {"bins": 1}, {"width": 0}, {"blocks": 0}, {"bins": -8}],
    ids=str,
)
def test_impossible_dimensions_are_said(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        NetworkConfig(**bad)


@pytest.mark.parametrize(
    "config", [NetworkConfig(), NetworkConfig(64, 1, 4, 32, 1), NetworkConfig(256, 3, 16, 48, 3)], ids=str
)
def test_weights_bring_their_dimensions(tmp_path: Path, config: NetworkConfig) -> None:
    path = tmp_path / "weights.safetensors"
    network = trained(config)
    save_network(network, path, trained_on="427 photographs")
    loaded = load_network(path)
    assert loaded.config == config and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    thumbnail = torch.rand(1, 3, *config.thumbnail_size(900, 1600))
    with torch.inference_mode():
        assert torch.equal(loaded(thumbnail), network(thumbnail))
    with safe_open(path, "pt") as file:
        assert file.metadata()["trained_on"] == "427 photographs"


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_network(trained(), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata)
    assert all(parameter.dtype == torch.float32 for parameter in load_network(path).parameters())


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("these are not weights\n" * 100)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def rewritten(change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> Callable[[Path], None]:
    """Rewrite the file with its tensors or metadata changed."""

    def spoil(path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata())
        tensors = load_file(path)
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return spoil


def with_config(**changes: object) -> Callable[[Path], None]:
    return rewritten(lambda _, meta: meta.update(config=json.dumps({**json.loads(meta["config"]), **changes})))


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (missing, "no such weights file"),
    "folder": (folder, "not a readable safetensors file"),
    "empty": (empty, "not a readable safetensors file"),
    "text": (text, "not a readable safetensors file"),
    "truncated": (truncated, "not a readable safetensors file"),
    "foreign": (rewritten(lambda _, meta: meta.clear()), "not rtlit weights"),
    "newer": (rewritten(lambda _, meta: meta.update(format="rtlit-curve-network/9")), "not rtlit weights"),
    "no config": (rewritten(lambda _, meta: meta.pop("config")), "damaged weights"),
    "broken config": (rewritten(lambda _, meta: meta.update(config="{")), "damaged weights"),
    "list config": (rewritten(lambda _, meta: meta.update(config="[1]")), "damaged weights"),
    "unknown dimension": (with_config(depth=3), "damaged weights"),
    "other dimension": (with_config(width=32), "damaged weights"),
    "impossible dimension": (with_config(bins=0), "damaged weights"),
    "huge dimension": (with_config(width=10_000_000), "damaged weights"),
    "text dimension": (with_config(width="wide"), "damaged weights"),
    "tensor missing": (rewritten(lambda tensors, _: tensors.pop("head.bias")), "damaged weights"),
    "tensor too many": (rewritten(lambda tensors, _: tensors.update(x=torch.ones(1))), "damaged weights"),
    "not a number": (rewritten(lambda tensors, _: tensors["head.bias"].fill_(torch.nan)), "damaged weights"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_unusable_weights_are_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_network(trained(), path)
    spoil, expected = SPOILED[how]
    spoil(path)
    with pytest.raises(WeightsError) as caught:
        load_network(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {expected}") and "\n" not in message and len(message) < 400


def test_shipped_weights_are_those_registered() -> None:
    folder = weights.DEFAULT.parent
    assert {path.name for path in folder.glob("*.safetensors")} == set(weights.SHIPPED)
    for name, digest in weights.SHIPPED.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    load_network(weights.DEFAULT)  # tests/test_lighting.py loads the other
