"""The enhancement network of CLIP-LIT (arXiv 2303.17569): a picture → its illumination map, at full resolution.

    3 → 32 ─ 2 residual blocks ─ pyramid pooling ─ 32 → 64 ─ 2 residual blocks ─ 64 → 32 ─ 2 residual blocks ─ → 1, ReLU

Written from the paper and from what the released checkpoint holds. 278,790 parameters, 278 kMAC a pixel. CLIP-LIT's
released weights have no licence and are no part of rtlit; `load_unet` reads them for people who have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rtlit.errors import WeightsError
from rtlit.network import CurveNetwork, load_network, read_safetensors

FORMAT = "rtlit-clip-lit-unet/1"
BINS = (1, 2, 3, 6)
# An L below one 16-bit code is as good as 0: any tone but black becomes white, and black stays black.
DARKEST = 1 / 65535
Padding = Literal["zeros", "reflect"]

# Names in the released state dict → ours.
_RELEASED = {
    "cond1": "enter",
    "ResidualBlock1": "shallow.0",
    "ResidualBlock2": "shallow.1",
    **{f"PPM1.features.{i}.1": f"pyramid.{i}.0" for i in range(len(BINS))},
    **{f"PPM1.features.{i}.2": f"pyramid.{i}.1" for i in range(len(BINS))},
    "PPM1.fuse": "fuse",
    "condx": "widen",
    "ResidualBlock3": "deep.0",
    "ResidualBlock4": "deep.1",
    "condy": "narrow",
    "ResidualBlock5": "late.0",
    "ResidualBlock6": "late.1",
    "cond_add1": "leave",
}


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


class _Residual(nn.Module):
    """Two 3×3 convolutions without bias around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky_relu(x + self.conv2(_leaky_relu(self.conv1(x))))


class Unet(nn.Module):
    """Illumination L of pictures; `divide` makes the enhanced picture of it.

    `features`, `context` and `illumination` are its parts, in order, for whoever works in tiles.
    """

    def __init__(self, padding: Padding = "reflect") -> None:
        """Random weights of torch's own kind; see `reset`.

        Args:
            padding: of the four outer convolutions: CLIP-LIT trains with "zeros" and tests with "reflect".
        """
        super().__init__()

        def outer(before: int, after: int) -> nn.Conv2d:
            return nn.Conv2d(before, after, 3, padding=1, padding_mode=padding)

        self.enter = outer(3, 32)
        self.shallow = nn.Sequential(_Residual(32), _Residual(32))
        self.pyramid = nn.ModuleList(nn.Sequential(nn.Conv2d(32, 8, 1, bias=False), nn.PReLU()) for _ in BINS)
        self.fuse = nn.Sequential(nn.Conv2d(32 + 8 * len(BINS), 32, 3, padding=1, bias=False), nn.PReLU())
        self.widen = outer(32, 64)
        self.deep = nn.Sequential(_Residual(64), _Residual(64))
        self.narrow = outer(64, 32)
        self.late = nn.Sequential(_Residual(32), _Residual(32))
        self.leave = outer(32, 1)

    def reset(self, seed: int) -> None:
        """Draw new weights: convolutions N(0, 0.02), biases torch's own; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = Unet()
            for module in fresh.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, 0, 0.02)
        self.load_state_dict(fresh.state_dict())

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in 0 … 1 → [B, 32, H, W]; reaches 5 pixels."""
        x: Tensor = self.shallow(_leaky_relu(self.enter(images)))
        return x

    def context(self, index: int, pooled: Tensor) -> Tensor:
        """Features averaged over BINS[index]² cells [B, 32, b, b] → [B, 8, b, b]."""
        x: Tensor = self.pyramid[index](pooled)
        return x

    def illumination(self, features: Tensor, contexts: list[Tensor]) -> Tensor:
        """Features and the contexts, enlarged to their size → L [B, 1, H, W]; reaches 12 pixels."""
        x = self.deep(self.widen(self.fuse(torch.cat([features, *contexts], 1))))
        return torch.relu(self.leave(self.late(self.narrow(x))))

    def forward(self, images: Tensor) -> Tensor:
        """Illumination map.

        Args:
            images: R'G'B' [B, 3, H, W] in 0 … 1, sides of 2 pixels or more.

        Returns:
            L [B, 1, H, W], ≥ 0: 1 leaves a pixel as it is, less lifts it.
        """
        features = self.features(images)
        contexts = []
        for index, bins in enumerate(BINS):
            context = self.context(index, F.adaptive_avg_pool2d(features, bins))
            contexts.append(F.interpolate(context, images.shape[-2:], mode="bilinear", align_corners=True))
        return self.illumination(features, contexts)


def divide(images: Tensor, illumination: Tensor, strength: float = 1.0) -> Tensor:
    """The enhanced picture clamp(x / L^strength, 0, 1); exactly x at strength 0.

    Args:
        images: [B, C, H, W] in 0 … 1; illumination: [B, 1, H, W], ≥ 0.
    """
    return (images / illumination.clamp(min=DARKEST) ** strength).clamp(0, 1)


def save_unet(network: Unet, path: Path, **about: str) -> None:
    """Write weights, and `about` (who made them, how), as safetensors."""
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {"format": FORMAT, **about})


def load_unet(path: Path, padding: Padding = "reflect") -> Unet:
    """Read weights written by `save_unet`, or a state dict (.pth) as CLIP-LIT releases it; frozen, on the CPU.

    Raises:
        WeightsError: no such file, or not weights of this network.
    """
    if is_torch_file(path):
        return unet_from(_load_state(path), path, padding)
    metadata, state = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: not weights of the CLIP-LIT U-Net (format {metadata.get('format')!r})")
    return unet_from(state, path, padding)


def load_weights(path: Path) -> CurveNetwork | Unet:
    """The network of any weights file; as `load_network` and `load_unet`, which also say what they raise."""
    if is_torch_file(path) or read_safetensors(path)[0].get("format") == FORMAT:
        return load_unet(path)
    return load_network(path)


def is_torch_file(path: Path) -> bool:
    """Whether torch.save wrote it: a zip archive, or a bare pickle (torch < 1.6); safetensors have { at byte 8."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False  # read_safetensors says what is wrong
    return head[:2] == b"PK" or (head[:1] == b"\x80" and head[8:] != b"{")


def _load_state(path: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise WeightsError(f"{path}: not a readable state dict ({type(error).__name__}); check --weights") from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return state


def unet_from(state: Mapping[str, Any], path: Path, padding: Padding = "reflect") -> Unet:
    """The network of a state dict with our names, or those of the released checkpoint (with `module.` or without).

    Raises:
        WeightsError: names, shapes or values aren't this network's; it names `path`.
    """
    network = Unet(padding)
    try:
        ours = {_our_name(name): tensor for name, tensor in state.items()}
        if absent := sorted(network.state_dict().keys() - ours.keys()):
            raise ValueError(f"{absent[0]} isn't in it")
        network.load_state_dict(ours)
        if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
            raise ValueError("some are not finite numbers")
    except (AttributeError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not weights of the CLIP-LIT U-Net, or damaged ones ({reason})") from None
    return network.eval().requires_grad_(False)


def _our_name(name: str) -> str:
    name = name.removeprefix("module.")
    module, _, rest = name.rpartition(".")
    for released, ours in _RELEASED.items():
        if f"{module}.".startswith(f"{released}."):
            return f"{ours}{module[len(released) :]}.{rest}"
    return name
