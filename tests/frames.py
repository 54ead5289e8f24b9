"""Random frames and grids in every format that the stages take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rtlit.frame import Color, PixelFormat

FORMATS = [
    "gray", "gray10le", "gray16le",
    "yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuvj420p",
    "yuv420p9le", "yuv444p9le", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv440p10le",
    "yuv420p12le", "yuv422p12le", "yuv444p12le", "yuv420p16le", "yuv444p16le",
    "gbrp", "gbrp10le", "gbrp12le", "gbrp16le",
]  # fmt: skip
INTERLEAVED = [
    "nv12", "nv16", "nv24", "p010le", "p012le", "p016le", "p210le", "p212le", "p216le", "p410le", "p412le", "p416le",
]  # fmt: skip
SIZES = [(16, 16), (19, 17), (37, 53), (48, 64)]  # rows, columns
COLORS = [Color(matrix, full) for matrix in ("bt601", "bt709", "bt2020") for full in (False, True)]


def color_for(pixel_format: PixelFormat, color: Color) -> Color:
    """The colour itself, or that of RGB planes."""
    return Color("rgb", True, color.transfer) if pixel_format.is_rgb else color


def random_planes(pixel_format: PixelFormat, size: tuple[int, int], batch: int = 0, seed: int = 0) -> list[Tensor]:
    """Independent random codes over the format's whole range, those outside video levels included.

    As they lie in memory: interleaved chroma as views of one tensor, codes shifted up by `low_bits`.
    """
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if pixel_format.depth == 8 else np.uint16
    lead = (batch,) if batch else ()
    shapes = [lead + pixel_format.plane_size(index, *size) for index in range(pixel_format.channels)]
    planes = [rng.integers(0, pixel_format.max_code, shape, dtype, endpoint=True) for shape in shapes]
    if pixel_format.interleaved:
        chroma = torch.from_numpy(np.stack(planes[1:], -1) << pixel_format.low_bits)
        return [torch.from_numpy(planes[0] << pixel_format.low_bits), chroma[..., 0], chroma[..., 1]]
    return [torch.from_numpy(plane) for plane in planes]


def random_grid(
    batch: int, channels: int = 3, bins: int = 8, rows: int = 9, columns: int = 16, seed: int = 0
) -> Tensor:
    """Curve parameters t, −4 … 4."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, bins, rows, columns, generator=generator) * 8 - 4
