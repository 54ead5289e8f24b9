"""Other networks for the same task, written from their papers, with random weights: what they cost, not how they look.

    Zero-DCE     (arXiv 2001.06826) seven 3×3 convolutions at full resolution, eight maps: x ← x + a·(x² − x)
    Zero-DCE++   (arXiv 2103.00860) the same, depthwise separable, on a 12th of the sides; one map, applied eight times
    SCI          (arXiv 2204.10137) three 3×3 convolutions of three channels around shortcuts; x / illumination
    CLIP-LIT     (arXiv 2303.17569) `rtlit.unet`; x / illumination

As their users run them: an RGB frame of bytes → floats → network → bytes, in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtlit.unet import Unet, divide

_STEPS = 8


def _conv(before: int, after: int, separable: bool) -> nn.Module:
    if not separable:
        return nn.Conv2d(before, after, 3, padding=1)
    return nn.Sequential(nn.Conv2d(before, before, 3, padding=1, groups=before), nn.Conv2d(before, after, 1))


class _Curves(nn.Module):
    """The seven convolutions of Zero-DCE and Zero-DCE++: layers 5, 6, 7 also see what layers 3, 2, 1 gave."""

    def __init__(self, maps: int, separable: bool) -> None:
        super().__init__()
        inputs = [3, 32, 32, 32, 64, 64, 64]
        outputs = [32] * 6 + [maps]
        self.layers = nn.ModuleList(_conv(*sides, separable) for sides in zip(inputs, outputs, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for layer in self.layers[:4]:
            x = torch.relu(layer(x))
            seen.append(x)
        for index, layer in enumerate(self.layers[4:6]):
            x = torch.relu(layer(torch.cat([seen[2 - index], x], 1)))
        return torch.tanh(self.layers[6](torch.cat([seen[0], x], 1)))


class ZeroDce(nn.Module):
    """79,416 parameters, 164 GMAC at 1080p."""

    def __init__(self) -> None:
        super().__init__()
        self.curves = _Curves(3 * _STEPS, separable=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in 0 … 1 → the same."""
        for a in self.curves(x).chunk(_STEPS, 1):
            x = x + a * (x * x - x)
        return x


class ZeroDcePlus(nn.Module):
    """10,561 parameters, 0.145 GMAC at 1080p and eight passes over the full-size picture."""

    scale = 12

    def __init__(self) -> None:
        super().__init__()
        self.curves = _Curves(3, separable=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in 0 … 1, sides of 12 pixels or more → the same."""
        height, width = x.shape[-2:]
        small = F.interpolate(x, (height // self.scale, width // self.scale), mode="bilinear")
        a = F.interpolate(self.curves(small), (height, width), mode="bilinear")
        for _ in range(_STEPS):
            x = x + a * (x * x - x)
        return x


class Sci(nn.Module):
    """258 parameters, 0.5 GMAC at 1080p."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in 0 … 1 → the same."""
        features = torch.relu(self.enter(x))
        illumination = torch.sigmoid(self.leave(features + self.block(features))) + x
        return (x / illumination.clamp(1e-4, 1)).clamp(0, 1)


class ClipLit(nn.Module):
    """278,790 parameters, 576 GMAC at 1080p."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = Unet()

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in 0 … 1 → the same."""
        return divide(x, self.unet(x))


PEERS: dict[str, Callable[[], nn.Module]] = {
    "Zero-DCE": ZeroDce,
    "Zero-DCE++": ZeroDcePlus,
    "SCI": Sci,
    "CLIP-LIT U-Net": ClipLit,
}


class FramePeer(nn.Module):
    """A peer on frames of bytes. Its weights are random, and normal numbers: subnormals would slow a CPU down."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PEERS[name]()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter[parameter.abs() < torch.finfo(torch.float16).tiny] = 0
        self.eval().requires_grad_(False)

    def forward(self, frame: Tensor) -> Tensor:
        """R'G'B' [H, W, 3], uint8 → the same."""
        dtype = next(self.parameters()).dtype
        x = frame.permute(2, 0, 1)[None].to(dtype) / 255
        enhanced: Tensor = self.network(x)[0].permute(1, 2, 0)
        return (enhanced * 255 + 0.5).clamp(0, 255).to(torch.uint8)
