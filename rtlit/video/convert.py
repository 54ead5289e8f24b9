"""Change a frame's pixel format, size or colour coding without changing what is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtlit.avframe import color_of, copy_time, widened
from rtlit.frame import Color

if TYPE_CHECKING:
    import av

# SWS_POINT, _ACCURATE_RND, _FULL_CHR_H_INT: chroma samples stay by themselves, and nothing darkens by a code.
_EXACT = 0x10 | 0x40000 | 0x2000
# AVColorSpace; swscale's numbers are the same but for BT.601, of which PyAV knows 5 alone.
MATRIX_TAGS = {"bt601": 5, "bt709": 1, "bt2020": 9}
_HD = 720  # lines
LIMITED, FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG


def yuv_of_rgb(height: int) -> Color:
    """What RGB becomes where only YUV is stored: the matrix that readers take for granted at such a height."""
    return Color("bt709" if height >= _HD else "bt601")


def convert(
    frame: av.VideoFrame, name: str, size: tuple[int, int] | None = None, color: Color | None = None
) -> av.VideoFrame:
    """The frame in another pixel format (and size).

    Args:
        color: matrix and range to store it in, where that is YUV; None keeps the frame's own.
    """
    frame = widened(frame)
    width, height = size or (frame.width, frame.height)
    here = color_of(frame)
    rgb_out = name.startswith(("gbr", "rgb", "bgr", "argb", "abgr", "0rgb", "0bgr", "x2"))
    to_yuv = here.matrix == "rgb" and not rgb_out
    there = color or (yuv_of_rgb(frame.height) if to_yuv else here)
    moves = here.matrix != there.matrix and not rgb_out
    out = frame.reformat(
        width,
        height,
        name,
        src_colorspace=MATRIX_TAGS[here.matrix] if moves and not to_yuv else None,
        dst_colorspace=MATRIX_TAGS[there.matrix] if moves else None,
        src_color_range=FULL if here.full_range else LIMITED,
        dst_color_range=FULL if there.full_range or rgb_out else LIMITED,
        interpolation=_EXACT if moves and not to_yuv and size is None else None,
        # swscale's threads write beyond their last row's end, into another's first row, unless it is aligned.
        threads=0 if width % 64 == 0 else 1,
    )
    copy_time(frame, out)
    out.color_primaries, out.color_trc = frame.color_primaries, frame.color_trc
    same_range = here.full_range == there.full_range and not to_yuv
    out.color_range = frame.color_range if same_range else FULL if there.full_range else LIMITED
    out.colorspace = MATRIX_TAGS[there.matrix] if moves else frame.colorspace
    return out
