"""Change a frame's pixel format or size without changing what its codes mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av


def convert(frame: av.VideoFrame, name: str, size: tuple[int, int] | None = None) -> av.VideoFrame:
    """The frame in another pixel format (and size), with its range and matrix as they were."""
    width, height = size or (frame.width, frame.height)
    color_range = 2 if frame.format.name.startswith("yuvj") else int(frame.color_range) or 1
    to_yuv = frame.format.is_rgb and not name.startswith(("gbr", "rgb", "bgr"))
    out = frame.reformat(
        width,
        height,
        name,
        src_color_range=2 if to_yuv else color_range,
        dst_color_range=1 if to_yuv else color_range,
        dst_colorspace="ITU709" if to_yuv else None,
    )
    out.pts, out.time_base, out.duration = frame.pts, frame.time_base, frame.duration
    out.color_primaries, out.color_trc = frame.color_primaries, frame.color_trc
    out.color_range = 1 if to_yuv else frame.color_range
    out.colorspace = 1 if to_yuv else frame.colorspace
    return out
