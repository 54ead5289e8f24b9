"""Pixel formats against FFmpeg's own descriptions, colour against the standards' numbers."""

from __future__ import annotations

import av
import numpy as np
import pytest

from rtlit.errors import UsageError
from rtlit.frame import LUMA_WEIGHTS, Color, PixelFormat
from tests.frames import COLORS, FORMATS, INTERLEAVED


def accepted(name: str) -> PixelFormat | None:
    try:
        return PixelFormat(name)
    except UsageError:
        return None


@pytest.mark.parametrize("name", sorted(av.video.format.names))
def test_every_format_of_ffmpeg_is_described_alike_or_refused(name: str) -> None:
    ours = accepted(name)
    assert ours is not None or name not in FORMATS + INTERLEAVED
    if ours is None:
        return
    theirs = av.VideoFormat(name, 37, 53)
    assert ours.depth == theirs.components[0].bits and ours.channels == len(theirs.components)
    assert ours.is_rgb == theirs.is_rgb and theirs.is_planar == (ours.channels > 1) and not theirs.is_big_endian
    shared = [component.plane for component in theirs.components].count(1)
    assert ours.interleaved == (shared == 2) == (name in INTERLEAVED)
    for component in theirs.components:
        assert (component.height, component.width) == ours.plane_size(component.plane, 53, 37)


@pytest.mark.parametrize(
    "name",
    ["rgb24", "nv21", "nv20le", "yuva420p", "yuv420p10be", "p010be", "p014le", "pal8", "grayf32le", "yuyv422", ""],
)
def test_other_formats_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"^pixel format '{name}' is not planar .*; convert it to yuv420p first$"):
        PixelFormat(name)


@pytest.mark.parametrize(("name", "low_bits"), [("nv12", 0), ("p010le", 6), ("p212le", 4), ("p416le", 0)])
def test_codes_lie_at_the_top_of_their_words(name: str, low_bits: int) -> None:
    assert PixelFormat(name).low_bits == low_bits
    assert PixelFormat("yuv420p10le").low_bits == 0


def test_matrices_are_those_of_the_standards() -> None:
    """Rounded as BT.601-7 §2.5, BT.709-6 item 3.3 and BT.2020-2 table 4 print them."""
    printed = {
        "bt601": [[1, 0, 1.402], [1, -0.3441, -0.7141], [1, 1.772, 0]],
        "bt709": [[1, 0, 1.5748], [1, -0.1873, -0.4681], [1, 1.8556, 0]],
        "bt2020": [[1, 0, 1.4746], [1, -0.1646, -0.5714], [1, 1.8814, 0]],
    }
    assert printed.keys() == LUMA_WEIGHTS.keys()
    for color in COLORS:
        assert np.abs(np.array(color.to_rgb()) - printed[color.matrix]).max() < 5.1e-5


@pytest.mark.parametrize("color", [*COLORS, Color("rgb", True)], ids=lambda color: color.matrix)
def test_from_rgb_undoes_to_rgb(color: Color) -> None:
    assert np.allclose(np.array(color.from_rgb()) @ np.array(color.to_rgb()), np.eye(3), atol=1e-15)


@pytest.mark.parametrize("depth", [8, 9, 10, 12, 14, 16])
def test_video_levels(depth: int) -> None:
    """16 … 235 and 16 … 240 about 128 at 8 bits, the same × 2^(depth − 8) above."""
    (black, luma), (neutral, chroma) = Color().scales(depth)
    step = 2 ** (depth - 8)
    assert (black, black + luma, neutral) == (16 * step, 235 * step, 128 * step)
    assert (neutral - chroma / 2, neutral + chroma / 2) == (16 * step, 240 * step)
    peak = 2**depth - 1
    assert Color(full_range=True).scales(depth) == ((0, peak), (128 * step, peak))
    assert Color("rgb").scales(depth) == ((0, peak), (0, peak))
