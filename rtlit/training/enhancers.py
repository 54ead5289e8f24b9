"""What the procedure can train: the curve network and CLIP-LIT's U-Net, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rtlit.errors import OutputError, UsageError, WeightsError
from rtlit.network import CurveNetwork, NetworkConfig, load_network, save_network
from rtlit.reference import area_weights, enhance_rgb, exponentiate
from rtlit.training.supervised import roughness
from rtlit.unet import Unet, divide, load_unet, load_weights, save_unet

KINDS = ("curves", "clip-lit-unet")


class TrainableEnhancer(nn.Module):
    """Pictures → enhanced pictures, differentiably."""

    kind: str

    def forward(self, images: Tensor) -> Tensor:
        """R'G'B' [B, 3, H, W] in 0 … 1 → the same, enhanced."""
        return self.with_roughness(images)[0]

    def with_roughness(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(enhanced pictures, how uneven across the picture is what was applied to them: a scalar, 0 or more)."""
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        """Draw new weights, the same ones for the same seed; the global generator is left as it was."""
        raise NotImplementedError

    def export(self, path: Path, **about: str) -> None:
        """Write weights that `--weights` takes, with `about` as metadata; the file appears when it is complete.

        Raises:
            OutputError: it can't be written.
        """
        raise NotImplementedError


class CurveEnhancer(TrainableEnhancer):
    """The curve network as `rtlit.Enhancer` runs it on a still; without weights, the identity."""

    kind = "curves"

    def __init__(self, network: CurveNetwork) -> None:
        super().__init__()
        self.network = network.train().requires_grad_(True)

    def with_roughness(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class. The thumbnail is an area mean, as in `rtlit.reference.analyze`.

        Roughness is that of the grid of t; see `rtlit.training.supervised.roughness`.
        """
        height, width = images.shape[-2:]
        h, w = self.network.config.thumbnail_size(height, width)
        rows = area_weights(height, height, h).to(images)
        columns = area_weights(width, width, w).to(images)
        grid = self.network(rows @ images @ columns.T)
        return enhance_rgb(images, exponentiate(grid, 1.0)), roughness(grid)

    def reset(self, seed: int) -> None:
        """See the base class."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network.load_state_dict(CurveNetwork(self.network.config).state_dict())

    def export(self, path: Path, **about: str) -> None:
        """See the base class."""
        _write(path, lambda part: save_network(self.network, part, **about))


class UnetEnhancer(TrainableEnhancer):
    """CLIP-LIT's U-Net, with zeros around its outer convolutions, as the paper trains it.

    In channels-last memory an iteration takes a fifth less time (18.5 against 23.6 s a megapixel on a CPU core).
    """

    kind = "clip-lit-unet"

    def __init__(self, network: Unet) -> None:
        super().__init__()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Unet = network.train().requires_grad_(True)

    def with_roughness(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class. The illumination isn't penalised, as in the paper: 0."""
        return divide(images, self.network(images.contiguous(memory_format=torch.channels_last))), images.new_zeros(())

    def reset(self, seed: int) -> None:
        """See the base class; convolutions N(0, 0.02), as CLIP-LIT's."""
        self.network.reset(seed)

    def export(self, path: Path, **about: str) -> None:
        """See the base class."""
        _write(path, lambda part: save_unet(self.network, part, **about))


def make_enhancer(
    kind: str, init: Path | None = None, *, config: NetworkConfig | None = None, seed: int = 0
) -> TrainableEnhancer:
    """An enhancer to train, on the CPU.

    Args:
        kind: "curves" or "clip-lit-unet".
        init: weights to start from: an export, shipped weights, or for the U-Net a released checkpoint; None
            draws them from `seed`, and leaves the global generator as it was.
        config: dimensions of the curve network where it doesn't start from weights.

    Raises:
        UsageError: no such kind, or a config for what has none. WeightsError: unusable weights, or of another kind.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is not an enhancer; choose {' or '.join(KINDS)}")
    if config is not None and (init is not None or kind != "curves"):
        raise UsageError("dimensions are for a curve network without weights to start from; leave them out")
    if init is not None:
        return _from_weights(kind, init)
    with torch.random.fork_rng(devices=[]):
        fresh = CurveEnhancer(CurveNetwork(config)) if kind == "curves" else UnetEnhancer(Unet("zeros"))
    fresh.reset(seed)
    return fresh


def _from_weights(kind: str, path: Path) -> TrainableEnhancer:
    found = "curves" if isinstance(load_weights(path), CurveNetwork) else "clip-lit-unet"
    if found != kind:
        raise WeightsError(f"{path}: weights for --enhancer {found}, not {kind}")
    return CurveEnhancer(load_network(path)) if kind == "curves" else UnetEnhancer(load_unet(path, "zeros"))


def _write(path: Path, save: Callable[[Path], None]) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"{path}: can't be written (no such folder)")
    part = path.with_name(f".{path.name}")
    try:
        save(part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: can't be written ({getattr(error, 'strerror', None) or error})") from None
