"""Pictures through the CLIP-LIT U-Net, in tiles: a picture of any size in bounded memory.

A tile is computed with a margin as wide as the network reaches, so that tiles show no seams. What the network knows of
the whole picture, its pooled features, is gathered in a first pass over all tiles.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtlit.errors import DeviceError
from rtlit.unet import BINS, Unet, divide

Codes = TypeVar("Codes", "NDArray[np.uint8]", "NDArray[np.uint16]")
Span = tuple[int, int]  # from, to
Tile = tuple[Span, Span]  # rows, columns

# Of a tile, in pixels. On one CPU core, at 1024×768: 128 → 7.8 s/MP, 256 → 7.4, 512 → 7.8, 1024 (uncut) → 9.5.
SIDE = {"cpu": 256, "cuda": 512}
FEATURES_REACH = 5
REACH = 17
BYTES_PER_PIXEL = 3600  # of a tile and its margin: the peak that 256 gives on a CPU, 290 MB (1,600 from 512 on)
# What torch's allocator and oneDNN call it, in a plain RuntimeError.
_NO_MEMORY = ("allocate memory", "could not create a primitive")


class FullResolution:
    """Runs the network on numpy pictures.

    Attributes:
        name: what runs where, for people.
    """

    def __init__(self, network: Unet, device: torch.device, threads: int, side: int | None = None) -> None:
        """Take `network` over: it moves to `device`."""
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.threads = device, threads
        self.side = side or SIDE[device.type]
        on = "CUDA" if device.type == "cuda" else f"{threads} CPU thread{'s' if threads > 1 else ''}"
        self.name = f"CLIP-LIT U-Net in torch on {on}"

    def __call__(self, picture: Codes, strength: float, quarter_turns: int = 0) -> Codes:
        """Enhance a picture.

        Args:
            picture: R'G'B' [H, W, 3] or grey [H, W], uint8 or uint16 (full scale), sides of 2 pixels or more.
            strength: the power of the illumination that the picture is divided by; 0 leaves it as it is.
            quarter_turns: as for `rtlit.Enhancer`.

        Raises:
            DeviceError: not enough memory.
        """
        upright = np.rot90(picture, quarter_turns)
        result = np.empty_like(upright)
        height, width = upright.shape[:2]
        pixels = min(self.side + 2 * REACH, height) * min(self.side + 2 * REACH, width)
        needed = pixels * BYTES_PER_PIXEL + 2 * picture.nbytes
        with self._memory(needed), torch_threads(self.threads), torch.inference_mode():
            contexts = self._contexts(upright)
            for tile in _tiles(height, width, self.side):
                rows, columns = (slice(*span) for span in tile)
                result[rows, columns] = self._tile(upright, tile, contexts, strength)
        return np.ascontiguousarray(np.rot90(result, -quarter_turns))

    def _contexts(self, picture: Codes) -> list[Tensor]:
        """The pyramid of the whole picture: [1, 8, b, b] for each of BINS."""
        height, width = picture.shape[:2]
        over_rows = [_pool_weights(height, bins).to(self.device) for bins in BINS]
        over_columns = [_pool_weights(width, bins).to(self.device) for bins in BINS]
        pooled = [torch.zeros(1, 32, bins, bins, device=self.device) for bins in BINS]
        for tile in _tiles(height, width, self.side):
            window, inner = _window(tile, (height, width), FEATURES_REACH)
            features = self.network.features(self._load(picture, window))[..., inner[0], inner[1]]
            for total, down, across in zip(pooled, over_rows, over_columns, strict=True):
                total += down[:, slice(*tile[0])] @ features @ across[:, slice(*tile[1])].T
        return [self.network.context(index, mean) for index, mean in enumerate(pooled)]

    def _tile(self, picture: Codes, tile: Tile, contexts: list[Tensor], strength: float) -> Codes:
        size = picture.shape[:2]
        window, inner = _window(tile, size, REACH)
        images = self._load(picture, window)
        enlarged = [_enlarge(context, window, size) for context in contexts]
        light = self.network.illumination(self.network.features(images), enlarged)[..., inner[0], inner[1]]
        lifted = divide(images[:, : 1 if picture.ndim == 2 else 3, inner[0], inner[1]], light, strength)
        codes = (lifted[0] * np.iinfo(picture.dtype).max).round().permute(1, 2, 0).cpu().numpy().astype(picture.dtype)
        result: Codes = codes[..., 0] if picture.ndim == 2 else codes
        return result

    def _load(self, picture: Codes, window: Tile) -> Tensor:
        """R'G'B' [1, 3, h, w] in 0 … 1 of a part of a picture."""
        rows, columns = (slice(*span) for span in window)
        codes = torch.from_numpy(picture[rows, columns].astype(np.float32)).to(self.device)
        tones = codes.reshape(*codes.shape[:2], -1).permute(2, 0, 1)[None] / np.iinfo(picture.dtype).max
        return tones.expand(1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    @contextmanager
    def _memory(self, needed: int) -> Iterator[None]:
        """Says what is missing, before or after; `needed` in bytes."""
        free = free_memory() if self.device.type == "cpu" else None
        if free is not None and free < needed:
            self._out_of_memory(f" ({needed // 1_000_000} MB are needed, {free // 1_000_000} MB are free)")
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            named = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not named and not any(text in str(error) for text in _NO_MEMORY):
                raise
            self._out_of_memory()

    def _out_of_memory(self, how: str = "") -> NoReturn:
        other = "use device cpu" if self.device.type == "cuda" else "use the weights of a curve network"
        what = f"device {self.device.type}: out of memory for the CLIP-LIT U-Net{how}"
        raise DeviceError(f"{what}; close other programs, or {other}") from None


def free_memory() -> int | None:
    """Bytes of main memory that are free or hold what can be read again; None where the system doesn't say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tiles(height: int, width: int, side: int) -> list[Tile]:
    """A picture cut into about equal parts, none longer or wider than `side`."""

    def spans(length: int) -> list[Span]:
        count = math.ceil(length / side)
        return [(length * i // count, length * (i + 1) // count) for i in range(count)]

    return [(rows, columns) for rows in spans(height) for columns in spans(width)]


def _window(tile: Tile, size: Span, reach: int) -> tuple[Tile, tuple[slice, slice]]:
    """A tile with its margin, as far as there is a picture, and where the tile lies in it."""
    window, inner = [], []
    for (begin, end), length in zip(tile, size, strict=True):
        first = max(0, begin - reach)
        window.append((first, min(length, end + reach)))
        inner.append(slice(begin - first, end - first))
    return (window[0], window[1]), (inner[0], inner[1])


def _pool_weights(length: int, bins: int) -> Tensor:
    """Weights [bins, length] of torch's adaptive mean: cells that aren't whole take their border pixels both."""
    at = torch.arange(length)
    begins = torch.arange(bins) * length // bins
    ends = -(-(torch.arange(bins) + 1) * length // bins)
    inside = (at >= begins[:, None]) & (at < ends[:, None])
    return inside / (ends - begins)[:, None]


def _enlarge(context: Tensor, window: Tile, size: Span) -> Tensor:
    """[1, C, b, b] enlarged to a picture's size (bilinear, corners on corners): the window of it."""
    bins = context.shape[-1]
    rows, columns = (_tent_weights(span, length, bins).to(context) for span, length in zip(window, size, strict=True))
    return rows @ context @ columns.T


def _tent_weights(span: Span, length: int, bins: int) -> Tensor:
    """Weights [to − from, bins] of bilinear enlargement."""
    at = torch.arange(*span, dtype=torch.float64) * (bins - 1) / (length - 1)
    return (1 - (at[:, None] - torch.arange(bins)).abs()).clamp(min=0)
