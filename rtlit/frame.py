"""What a frame's planes mean: pixel formats and colour, without any library's types.

A frame is a tuple of planes. YUV frames have three (Y, U, V), grey ones have one, and RGB
pictures are three full-size planes in the order G, B, R (FFmpeg's `gbrp`) with the identity matrix.
Interleaved chroma (`nv12`, `p010le`) is two planes too: views of every other sample.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from rtlit.errors import UsageError

Matrix = Literal["bt601", "bt709", "bt2020", "rgb"]
Transfer = Literal["sdr", "pq", "hlg"]

# Kr, Kb: ITU-R BT.601-7, BT.709-6, BT.2020-2 (non-constant luminance).
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}

_INTERLEAVED = re.compile(r"nv(?P<low>12|16|24)|p(?P<high>[024])(?P<depth>10|12|16)le")
_INTERLEAVED_SAMPLING = {"12": "420", "16": "422", "24": "444", "0": "420", "2": "422", "4": "444"}
_PLANAR = re.compile(r"(?P<kind>yuvj?(?P<sampling>4[0-4][0-4])p|gray|gbrp)(?P<depth>9|1[0246])?(le)?")
# log2 of the luma samples that share a chroma sample, across and down.
_SUBSAMPLING = {"444": (0, 0), "422": (1, 0), "420": (1, 1), "440": (0, 1), "411": (2, 0), "410": (2, 2)}


@dataclass(frozen=True)
class PixelFormat:
    """A planar pixel format, named as FFmpeg names it (`yuv420p10le`, `gbrp`, `gray`), or one with interleaved chroma.

    Attributes:
        name: FFmpeg's name, little endian.
        depth: bits a sample, 8 to 16. Planes are uint8 at 8 bits and uint16 above.
        shift_x, shift_y: log2 of the chroma subsampling across and down (4:2:0 is 1, 1).
        channels: number of planes, 1 (grey) or 3, interleaved or not.
        interleaved: U and V alternate in memory (`nv12`, `p010le`): as planes, they are views of every other sample.
        low_bits: bits below a code in its word; 6 for `p010le`, which has its 10 bits at the top of 16, 0 for most.

    Raises:
        UsageError: the name is of neither a planar YUV, grey or RGB format nor of one with interleaved chroma.
    """

    name: str
    depth: int = field(init=False)
    shift_x: int = field(init=False)
    shift_y: int = field(init=False)
    channels: int = field(init=False)
    interleaved: bool = field(init=False)
    low_bits: int = field(init=False)

    def __post_init__(self) -> None:
        interleaved = _INTERLEAVED.fullmatch(self.name)
        match = interleaved or _PLANAR.fullmatch(self.name)
        if interleaved:
            sampling: str | None = _INTERLEAVED_SAMPLING[interleaved["low"] or interleaved["high"]]
        else:
            sampling = match["sampling"] if match else None
        if match is None or (sampling is not None and sampling not in _SUBSAMPLING):
            raise UsageError(f"pixel format {self.name!r} is not planar YUV, grey or RGB; convert it to yuv420p first")
        shift_x, shift_y = _SUBSAMPLING[sampling] if sampling else (0, 0)
        object.__setattr__(self, "depth", int(match["depth"] or 8))
        object.__setattr__(self, "shift_x", shift_x)
        object.__setattr__(self, "shift_y", shift_y)
        object.__setattr__(self, "channels", 1 if self.name.startswith("gray") else 3)
        object.__setattr__(self, "interleaved", interleaved is not None)
        object.__setattr__(self, "low_bits", -self.depth % 8 if interleaved else 0)

    @property
    def is_rgb(self) -> bool:
        """The planes are G, B, R."""
        return self.name.startswith("gbrp")

    @property
    def max_code(self) -> int:
        """The largest code value, 2^depth − 1."""
        return (1 << self.depth) - 1

    def plane_size(self, plane: int, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of a plane of a frame of the given size; odd sizes round up."""
        if plane == 0:
            return height, width
        return -(-height >> self.shift_y), -(-width >> self.shift_x)


@dataclass(frozen=True)
class Color:
    """How code values map to R'G'B'.

    Attributes:
        matrix: YUV↔RGB coefficients; "rgb" for planes that are G, B, R already.
        full_range: codes use 0 … 2^depth − 1; otherwise video levels (16–235 and 16–240 at 8 bits).
        transfer: "sdr", or the HDR curves "pq" (SMPTE ST 2084) and "hlg" (ARIB STD-B67).
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    transfer: Transfer = "sdr"

    def scales(self, depth: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """(offset, scale) of plane 0 and of planes 1 and 2: component = (code − offset) / scale.

        Y' is 0 … 1, Cb and Cr are −0.5 … 0.5, R'G'B' are 0 … 1. ITU-T H.273 (2021) §8.3.
        """
        peak = float((1 << depth) - 1)
        if self.matrix == "rgb":
            return (0.0, peak), (0.0, peak)
        if self.full_range:
            return (0.0, peak), (float(1 << (depth - 1)), peak)
        return (float(16 << (depth - 8)), float(219 << (depth - 8))), (
            float(1 << (depth - 1)),
            float(224 << (depth - 8)),
        )

    def to_rgb(self) -> list[list[float]]:
        """3×3 matrix from the planes' components to (R', G', B')."""
        if self.matrix == "rgb":
            return [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        kr, kb = LUMA_WEIGHTS[self.matrix]
        kg = 1 - kr - kb
        return [
            [1.0, 0.0, 2 * (1 - kr)],
            [1.0, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg],
            [1.0, 2 * (1 - kb), 0.0],
        ]

    def from_rgb(self) -> list[list[float]]:
        """3×3 matrix from (R', G', B') to the planes' components; the inverse of `to_rgb`."""
        if self.matrix == "rgb":
            return [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        kr, kb = LUMA_WEIGHTS[self.matrix]
        kg = 1 - kr - kb
        return [
            [kr, kg, kb],
            [-kr / (2 * (1 - kb)), -kg / (2 * (1 - kb)), 0.5],
            [0.5, -kg / (2 * (1 - kr)), -kb / (2 * (1 - kr))],
        ]
