"""The estimate network: thumbnail → bilateral grid of curve parameters t."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rtlit.errors import UsageError, WeightsError
from rtlit.reference import restrain

STRIDE = 8
MAX_T = 4.0
_FORMAT = "rtlit-curve-network/1"


@dataclass(frozen=True)
class NetworkConfig:
    """Dimensions of a `CurveNetwork`; they travel in its weights file.

    Attributes:
        thumbnail: longer side of the thumbnail in pixels, a multiple of 8.
        channels: K, 3 for a curve each of R', G', B' or 1 for one they share.
        bins: D, tone bins of the grid.
        width: features of the three strided convolutions are width/2, width and width.
        blocks: residual blocks at grid resolution.
    """

    thumbnail: int = 128
    channels: int = 3
    bins: int = 8
    width: int = 64
    blocks: int = 3

    def __post_init__(self) -> None:
        if self.thumbnail < 2 * STRIDE or self.thumbnail % STRIDE:
            raise UsageError(f"thumbnail must be a multiple of {STRIDE}, at least {2 * STRIDE}, not {self.thumbnail}")
        if self.channels not in (1, 3):
            raise UsageError(f"channels must be 1 or 3, not {self.channels}")
        if min(self.bins, self.width, self.blocks) < 1 or self.bins < 2:
            got = f"{self.bins}, {self.width} and {self.blocks}"
            raise UsageError(f"bins, width and blocks must be positive (bins ≥ 2), not {got}")

    def thumbnail_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the thumbnail of a frame: its aspect ratio, in whole grid cells, at least two a side."""
        longer = max(height, width)
        sides = (max(2, round(self.thumbnail * side / longer / STRIDE)) * STRIDE for side in (height, width))
        h, w = sides
        return h, w


class CurveNetwork(nn.Module):
    """Strided convolutions to one cell per 8×8 thumbnail pixels, residual blocks, and a global branch.

    The global branch (mean and spread of every feature over the picture, through two linear layers) is
    added to every cell: exposure is a matter of the whole frame.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        width = config.width
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in [(3, width // 2), (width // 2, width), (width, width)]
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
            for _ in range(config.blocks)
        )
        self.context = nn.ModuleList([nn.Linear(2 * width, width), nn.Linear(width, width)])
        self.head = nn.Conv2d(width, config.channels * config.bins, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, thumbnail: Tensor) -> Tensor:
        """Estimate curve parameters.

        Args:
            thumbnail: R'G'B' [B, 3, h, w] in 0 … 1; h and w multiples of 8.

        Returns:
            t [B, K, D, h/8, w/8], −4 … 4; 0 leaves a tone as it is.
        """
        x = thumbnail * 2 - 1
        for conv in self.down:
            x = torch.relu(conv(x))
        for block in self.blocks:
            first, second = block.children()
            x = torch.relu(x + second(torch.relu(first(x))))
        mean = x.mean((-2, -1))
        spread = (x - mean[..., None, None]).square().mean((-2, -1)).add(1e-5).sqrt()
        first, second = self.context
        context = second(torch.relu(first(torch.cat([mean, spread], 1))))
        t: Tensor = self.head(torch.relu(x + context[..., None, None]))
        t = MAX_T * torch.tanh(t / MAX_T)
        return t.reshape(len(t), self.config.channels, self.config.bins, *t.shape[-2:])

    def estimate(self, thumbnail: Tensor, strength: float = 1.0) -> Tensor:
        """What is used: `forward`, restrained (`rtlit.reference.restrain`); training goes without."""
        return restrain(self(thumbnail), thumbnail, strength)


def save_network(network: CurveNetwork, path: Path, **about: str) -> None:
    """Write weights with their dimensions, and `about` (who made them, how), as safetensors."""
    metadata = {"format": _FORMAT, "config": json.dumps(asdict(network.config)), **about}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata)


def load_network(path: Path) -> CurveNetwork:
    """Read weights written by `save_network`; float32, on the CPU, frozen, in evaluation mode.

    Raises:
        WeightsError: no such file, not safetensors, or for another network.
    """
    metadata, state = read_safetensors(path)
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{path}: not rtlit weights (format {metadata.get('format')!r}, expected {_FORMAT!r})")
    try:
        network = CurveNetwork(NetworkConfig(**json.loads(metadata["config"])))
        network.load_state_dict(state)
        if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
            raise ValueError("some are not finite numbers")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged weights ({' '.join(str(error).split())[:200]})") from None
    return network.eval().requires_grad_(False)


def read_safetensors(
    path: Path, missing: str = "no such weights file; check --weights"
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file; `missing` is what to say if there is none.

    Raises:
        WeightsError: no such file, or not safetensors.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{path}: {missing}") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
