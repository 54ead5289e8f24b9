"""Between `av.VideoFrame` and planes: views without copies, what colour tags mean, and formats that aren't planar."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from rtlit.errors import UsageError
from rtlit.frame import Color, Matrix, PixelFormat, Transfer

if TYPE_CHECKING:
    import av
    from av.video.format import VideoFormat
    from torch import Tensor

    from rtlit.backends.choose import Plane

# AVColorSpace and AVColorTransferCharacteristic (ITU-T H.273 tables 4 and 3).
_MATRICES: dict[int, Matrix] = {0: "rgb", 1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
_TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}
_UNTAGGED, _FULL = 0, 2  # AVColorRange
_DEPTHS = (8, 9, 10, 12, 14, 16)
_SAMPLINGS = {(16, 16): "444", (8, 16): "422", (8, 8): "420", (16, 8): "440", (4, 16): "411", (4, 4): "410"}
_ALPHA = re.compile(r"^(yuv|gbr)a")


def pixel_format_of(frame: av.VideoFrame) -> PixelFormat:
    """The frame's planar format; a plane of transparency after the others isn't part of it.

    Raises:
        UsageError: not planar; see `to_planar`.
    """
    pixel_format = PixelFormat(_ALPHA.sub(r"\1", frame.format.name))
    if pixel_format.interleaved:
        raise UsageError(f"pixel format {frame.format.name!r} is not planar; see to_planar")
    return pixel_format


def color_of(frame: av.VideoFrame) -> Color:
    """Colour from the frame's tags; untagged frames are BT.709 from 720 lines on and BT.601 below,
    limited range unless the format is `yuvj…` or grey (as FFmpeg's swscale takes them)."""
    pixel_format = PixelFormat(_ALPHA.sub(r"\1", planar_name(software_format(frame))))
    transfer = _TRANSFERS.get(int(frame.color_trc), "sdr")
    if pixel_format.is_rgb:
        return Color("rgb", True, transfer)
    matrix = _MATRICES.get(int(frame.colorspace), "rgb")
    if matrix == "rgb":  # untagged, or a tag that makes no sense for YUV
        matrix = "bt709" if frame.height >= 720 else "bt601"
    color_range = int(frame.color_range)
    untagged_full = pixel_format.channels == 1 and color_range == _UNTAGGED
    return Color(matrix, color_range == _FULL or untagged_full or frame.format.name.startswith("yuvj"), transfer)


def planes_of(frame: av.VideoFrame) -> tuple[Plane, ...]:
    """The frame's own planes as arrays [rows, columns], uint8 or uint16, sharing its memory; without transparency."""
    pixel_format = pixel_format_of(frame)
    return tuple(_plane(frame, index, pixel_format) for index in range(pixel_format.channels))


def alpha_of(frame: av.VideoFrame) -> Plane | None:
    """The plane of transparency of a planar frame, sharing its memory; None where it has none."""
    pixel_format = pixel_format_of(frame)
    return _plane(frame, 3, pixel_format) if len(frame.planes) > 3 else None


def is_transparent(frame: av.VideoFrame) -> bool:
    """Whether any of a frame's pixels is less than opaque."""
    layout = software_format(frame)
    if layout.has_palette:
        colors = np.frombuffer(memoryview(frame.planes[1]), np.uint32)[: 1 << 8] >> 24  # ARGB words
        used = np.unique(np.frombuffer(memoryview(frame.planes[0]), np.uint8))
        return bool(colors[used].min() < 255)
    if not any(part.is_alpha for part in layout.components):
        return False
    alpha = alpha_of(to_planar(frame))
    return alpha is not None and int(alpha.min()) < (1 << layout.components[-1].bits) - 1


def software_format(frame: av.VideoFrame) -> VideoFormat:
    """The format of the frame's samples, also where they lie in a GPU's memory."""
    return getattr(frame, "sw_format", None) or frame.format


def tensors_of(frame: av.VideoFrame) -> tuple[Tensor, Tensor]:
    """(Y, UV) of a frame with interleaved chroma where it lies, a GPU's memory too: [rows, columns] each.

    They share the frame's memory and keep it; what the decoder writes to it is waited for by the CUDA device's default
    stream alone.
    """
    import torch

    # The capsule: a plane that torch asks itself is asked for the synchronization of a stream, which PyAV has not.
    luma, chroma = (torch.utils.dlpack.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    return luma, chroma.flatten(1)


def frame_of(
    planes: tuple[Tensor, ...], name: str, like: av.VideoFrame, context: av.video.frame.CudaContext | None
) -> av.VideoFrame:
    """A frame of tensors (Y, UV) where they lie, with the time and colour tags of another.

    Args:
        name: "nv12", "p010le" or "p016le".
        context: the CUDA context of all frames of a video; None for tensors on the CPU.
    """
    import av

    frame = av.VideoFrame.from_dlpack(planes, format=name, cuda_context=context)
    copy_time(like, frame)
    copy_tags(like, frame)
    return frame


def quarter_turns_of(frame: av.VideoFrame) -> int:
    """By how many quarters of a turn, counterclockwise, the frame is turned when it is shown; mirroring aside."""
    return round(frame.rotation / 90) % 4


def new_like(frame: av.VideoFrame, name: str | None = None) -> av.VideoFrame:
    """A frame of the same size and planar format with the frame's time, colour tags and transparency.

    With `name`, of that format instead, without transparency; then the frame may lie in a GPU's memory.

    PyAV offers no way to copy a frame's side data (closed captions, mastering metadata): those are lost.
    """
    import av

    copy = av.VideoFrame(frame.width, frame.height, name or frame.format.name)
    copy_time(frame, copy)
    copy_tags(frame, copy)
    if name is not None:
        return copy
    pixel_format = pixel_format_of(frame)
    if len(frame.planes) > pixel_format.channels:
        _plane(copy, 3, pixel_format)[...] = _plane(frame, 3, pixel_format)
    return copy


def to_planar(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame itself, or a planar copy of it with no less depth, resolution or transparency.

    Semi-planar (nv12, p010le), packed (yuyv422, rgb24, rgba), palette and big-endian formats are copied.

    Raises:
        UsageError: a format that can't be converted, such as a frame in a GPU's memory.
    """
    try:
        pixel_format_of(frame)
        return frame
    except UsageError:
        return reformat(widened(frame), planar_name(frame.format))


def reformat(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    """The frame in another pixel format, with everything else as it was.

    Raises:
        UsageError: FFmpeg's swscale can't convert between the two.
    """
    try:
        result = frame.reformat(format=name)
    except (ValueError, OSError) as error:
        raise UsageError(f"a frame of pixel format {frame.format.name!r} can't become {name} ({error})") from None
    copy_tags(frame, result)  # PyAV takes the tag bt470bg for smpte170m
    return result


def widened(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame itself, or with 8 bits where RGB is stored in fewer.

    swscale fills up the missing bits on the way to packed formats alone: white stays white. From big-endian words it
    makes garbage then.
    """
    parts = frame.format.components
    if not frame.format.is_rgb or frame.format.has_palette or min((part.bits for part in parts), default=8) >= 8:
        return frame
    return reformat(reformat(frame, frame.format.name.replace("be", "le")), "rgb24")


def _plane(frame: av.VideoFrame, index: int, pixel_format: PixelFormat) -> Plane:
    plane = frame.planes[index]
    rows, columns = pixel_format.plane_size(index % 3, frame.height, frame.width)  # transparency (3) is full size
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[:rows, :columns] if pixel_format.depth == 8 else lines.view(np.uint16)[:rows, :columns]


def copy_time(source: av.VideoFrame, target: av.VideoFrame) -> None:
    """Give a frame another's time and duration."""
    target.pts, target.dts, target.duration = source.pts, source.dts, source.duration
    if source.time_base is not None:
        target.time_base = source.time_base


def copy_tags(source: av.VideoFrame, target: av.VideoFrame) -> None:
    """Give a frame another's colour tags."""
    target.color_range, target.colorspace = source.color_range, source.colorspace
    target.color_primaries, target.color_trc = source.color_primaries, source.color_trc


def planar_name(layout: VideoFormat) -> str:
    """FFmpeg's name of the planar format that holds all of a format's depth, resolution and transparency:
    nv12 → yuv420p, p010le → yuv420p10le, bgr0 → gbrp. `yuvj…` stays, as that name carries the range.

    Raises:
        UsageError: a GPU's format.
    """
    parts = layout.components
    if layout.name.startswith("yuvj"):
        return layout.name
    if not parts:
        raise UsageError(f"a frame in pixel format {layout.name!r} lies in a device's memory; download it first")
    bits = 8 if layout.has_palette else max(part.bits for part in parts)
    depth = next((depth for depth in _DEPTHS if depth >= bits), 16)
    suffix = "" if depth == 8 else f"{depth}le"
    alpha = "a" if any(part.is_alpha for part in parts) else ""
    if layout.is_rgb or layout.has_palette:
        return f"gbr{alpha}p{suffix}"
    if len(parts) < 3:
        return f"gbrap{suffix}" if alpha else f"gray{suffix}"
    sampling = _SAMPLINGS.get((layout.chroma_width(16), layout.chroma_height(16)), "444")
    return f"yuv{alpha}{sampling}p{suffix}"
