"""What kernels need to know of pixel formats and colour.

`rtlit.frame.PixelFormat` and `rtlit.frame.Color` fit the protocols and can be passed as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class PixelFormat(Protocol):
    """Layout of a frame's planes; see `rtlit.frame.PixelFormat`."""

    @property
    def depth(self) -> int:
        """Bits a code, 8 to 16."""

    @property
    def shift_x(self) -> int:
        """log2 of the chroma subsampling across."""

    @property
    def shift_y(self) -> int:
        """log2 of the chroma subsampling down."""

    @property
    def channels(self) -> int:
        """Number of planes, 1 or 3."""

    @property
    def max_code(self) -> int:
        """2^depth − 1."""

    @property
    def low_bits(self) -> int:
        """Zero bits below a code in its word: code = word >> low_bits."""

    @property
    def is_rgb(self) -> bool:
        """The planes are G, B, R."""


class Color(Protocol):
    """What codes mean; see `rtlit.frame.Color`."""

    def scales(self, depth: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """(offset, scale) of plane 0 and of planes 1 and 2: component = (code − offset) / scale."""

    def to_rgb(self) -> list[list[float]]:
        """3×3 matrix from components to R'G'B'."""

    def from_rgb(self) -> list[list[float]]:
        """3×3 matrix from R'G'B' to components."""


def code_matrix(pixel_format: PixelFormat, color: Color) -> list[list[float]]:
    """The affine map from codes to R'G'B' as rows (a, b, c, constant): R' = a·code₀ + b·code₁ + c·code₂ + constant.

    Grey planes have b = c = 0 and their luma in all three rows.
    """
    (offset, scale), (chroma_offset, chroma_scale) = color.scales(pixel_format.depth)
    if pixel_format.channels == 1:
        return [[1 / scale, 0.0, 0.0, -offset / scale]] * 3
    affine = []
    for first, second, third in color.to_rgb():
        a, b, c = first / scale, second / chroma_scale, third / chroma_scale
        affine.append([a, b, c, -a * offset - (b + c) * chroma_offset])
    return affine


def check_planes(planes: Sequence[Tensor], pixel_format: PixelFormat) -> tuple[int, int]:
    """(rows, columns) of a frame whose planes have the shapes, the type and the place that kernels rely on.

    Raises:
        ValueError: they don't.
    """
    if len(planes) != pixel_format.channels:
        raise ValueError(f"{len(planes)} planes of a format that has {pixel_format.channels}")
    height, width = planes[0].shape
    chroma = -(-height >> pixel_format.shift_y), -(-width >> pixel_format.shift_x)
    dtype = torch.uint8 if pixel_format.depth == 8 else torch.uint16
    for index, plane in enumerate(planes):
        shape = chroma if index else (height, width)
        if plane.shape != shape or plane.dtype != dtype or plane.device != planes[0].device:
            kind = f"{list(plane.shape)} of {plane.dtype} on {plane.device}"
            raise ValueError(f"plane {index} is {kind}; expected {list(shape)} of {dtype} on {planes[0].device}")
    if len({plane.stride() for plane in planes[1:]}) > 1:
        raise ValueError(f"planes 1 and 2 have strides {planes[1].stride()} and {planes[2].stride()}; kernels take one")
    return height, width
