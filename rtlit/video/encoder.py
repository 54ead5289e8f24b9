"""The encoder's stream: size, time base, colour, fields, rotation and HDR metadata as the input has them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.codec.context import Flags

from rtlit.avframe import color_of
from rtlit.video import described, probe, streams
from rtlit.video.convert import FULL, LIMITED, MATRIX_TAGS, yuv_of_rgb
from rtlit.video.formats import MP4_FAMILY, EncoderPlan
from rtlit.video.grid import rate_of
from rtlit.video.pixels import opaque_format

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

    from rtlit.video.reader import Reader

_UNSPECIFIED = 2  # AVCOL_…_UNSPECIFIED of primaries, transfer and matrix
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_DYNAMIC_METADATA = {
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}
_MPEG4_LARGEST_TIME_BASE = 65535
_INTERLACED_ENCODERS = ("libx264", "libx264rgb", "mpeg2video", "mpeg4", "prores_ks", "ffv1", "dnxhd", "dvvideo")
# Containers that say a pixel aspect ratio themselves (for Matroska, `header` sees to it), and encoders that do.
_ASPECT_IN_HEADER = (*MP4_FAMILY, "matroska", "webm")
_ASPECT_IN_STREAM = (
    "libx264", "libx264rgb", "libx265", "h264_nvenc", "hevc_nvenc", "mpeg4", "mpeg2video", "mpeg1video", "h263",
    "dvvideo", "mjpeg", "png",
)  # fmt: skip
# DV's stream says 4:3 or 16:9, of 720 or 704 pixels, with 625 or 525 lines.
_DV_ASPECTS = tuple(map(Fraction, ("16/15", "64/45", "8/9", "32/27", "12/11", "16/11", "10/11", "40/33")))
_MPEG2_SHAPES = (4 / 3, 16 / 9, 2.21)  # of the whole picture, ISO/IEC 13818-2 table 6-3
_AV1_CHROMA_LOCATIONS = {1: "left", 2: "topleft"}  # AV1 specification 6.4.2, chroma_sample_position


def add_video(
    output: OutputContainer,
    reader: Reader,
    first: av.VideoFrame,
    plan: EncoderPlan,
    size: tuple[int, int],
    warn: Callable[[str], None],
) -> VideoStream:
    """Add the enhanced stream to a container, described like the input's.

    Args:
        first: the first decoded frame, for colour tags, rotation and HDR metadata.
        size: (width, height) of the frames to come.
        warn: called with a line for each thing that the encoder or container can't carry.
    """
    source, muxer = reader.stream, output.format.name
    even = rate_of(plan.name, muxer, source)
    rate = even or reader.rate or Fraction(25)
    video = output.add_stream(plan.name, rate=rate, options=dict(plan.options))
    assert isinstance(video, av.VideoStream)
    video.metadata.update(streams.kept_tags(source.metadata))
    held = described.carry(video, source, first, plan, size, warn)
    context = video.codec_context
    # NVENC takes what lies in the memory from the first frame.
    context.width, context.height, context.pix_fmt = *size, "cuda" if plan.on_device else plan.pixel_format
    context.time_base = video.time_base = 1 / even if even else _time_base(plan.name, reader.time_base)
    context.flags |= Flags.frame_duration
    if source.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = source.sample_aspect_ratio
    _tag_color(video, source, first, plan)
    _tag_fields(video, source, first, plan.name, warn)
    _carry_hdr(video, first, plan.name, described.SCREEN in held, warn)
    matrix = probe.display_matrix(first)
    if matrix is not None:
        video.set_display_matrix(matrix)
    if plan.name in ("libx265", "hevc_nvenc") and muxer in MP4_FAMILY:
        context.codec_tag = "hvc1"  # Apple's players open nothing tagged hev1
    # Matroska's muxer tells of transparency beside the picture by itself; the tag would hide that.
    for key in [key for key in video.metadata if key.lower() == "alpha_mode"]:
        del video.metadata[key]
    streams.name_with_aspect(video, source)
    video.disposition = source.disposition
    _warn_of_limits(video, plan.name, muxer, matrix is not None, warn)
    return video


def _time_base(encoder: str, base: Fraction) -> Fraction:
    if encoder != "mpeg4" or base.denominator <= _MPEG4_LARGEST_TIME_BASE:
        return base
    # The finest that is whole in the input's ticks.
    parts = next(n for n in range(2, base.denominator) if base.denominator % n == 0 and base.denominator // n < 1 << 16)
    return Fraction(base.numerator, base.denominator // parts)


def _tag_color(video: VideoStream, source: VideoStream, first: av.VideoFrame, plan: EncoderPlan) -> None:
    context, shown = video.codec_context, color_of(first)
    context.color_range = source.color_range or int(first.color_range)
    context.color_primaries = _told(source.color_primaries, int(first.color_primaries))
    context.color_trc = _told(source.color_trc, int(first.color_trc))
    context.colorspace = _told(source.colorspace, int(first.colorspace))
    if plan.color is not None:
        context.color_range = FULL if plan.color.full_range else LIMITED
        if plan.color.matrix != shown.matrix:
            context.colorspace = MATRIX_TAGS[plan.color.matrix]
    elif shown.matrix == "rgb" and not opaque_format(plan.work_format).is_rgb:
        context.colorspace, context.color_range = MATRIX_TAGS[yuv_of_rgb(first.height).matrix], LIMITED
    elif shown.full_range and shown.matrix != "rgb":
        context.color_range = FULL
    extra = source.codec_context.extradata or b""
    if source.codec_context.codec.canonical_name == "av1" and len(extra) > 3:
        # PyAV doesn't tell the location; the third byte of av1C does.
        location = _AV1_CHROMA_LOCATIONS.get(extra[2] & 3)
        context.options.update({"chroma_sample_location": location} if location else {})


def _tag_fields(
    video: VideoStream, source: VideoStream, first: av.VideoFrame, encoder: str, warn: Callable[[str], None]
) -> None:
    if not first.interlaced_frame:
        return
    video.codec_context.field_order = source.codec_context.field_order
    if encoder in _INTERLACED_ENCODERS:
        video.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    else:
        warn(f"the video is interlaced, which {encoder} can't mark; its fields are stored as frames")


def _carry_hdr(
    video: VideoStream, first: av.VideoFrame, encoder: str, held: bool, warn: Callable[[str], None]
) -> None:
    """Hand HDR10's mastering metadata to the encoder as text, and say what neither it nor the container holds."""
    kinds = probe.side_data(first)
    lost = list(dict.fromkeys(name for key, name in _DYNAMIC_METADATA.items() if key in kinds))
    mastering, light = kinds.get("MASTERING_DISPLAY_METADATA"), kinds.get("CONTENT_LIGHT_LEVEL")
    if mastering or light:
        options = _hdr10_options(encoder, mastering, light)
        lost += [described.SCREEN] if options is None and not held else []
        for key, value in (options or {}).items():
            current = video.codec_context.options.get(key)
            video.codec_context.options[key] = f"{current}:{value}" if current else value
    if lost:
        kind = HDR_TRANSFERS.get(int(first.color_trc), "SDR")
        warn(f"{' and '.join(lost)} metadata is not carried over; the video stays {kind}")


def _warn_of_limits(video: VideoStream, encoder: str, muxer: str, turned: bool, warn: Callable[[str], None]) -> None:
    aspect, matroska = video.codec_context.sample_aspect_ratio, muxer in ("matroska", "webm")
    in_stream = encoder in _ASPECT_IN_STREAM and _says(encoder, aspect, video.codec_context)
    if aspect not in (None, 0, 1) and muxer not in _ASPECT_IN_HEADER and not in_stream:
        warn(f"the pixel aspect ratio {aspect} is lost: {encoder} in {muxer} can't carry it")
    if turned and not matroska and muxer not in MP4_FAMILY:
        warn(f"the rotation is lost: {muxer} can't carry it; players will show the video turned")


def _says(encoder: str, aspect: Fraction | None, context: VideoCodecContext) -> bool:
    """Whether an encoder's stream can say this pixel aspect ratio: some have a few in a table."""
    if encoder == "dvvideo":
        return aspect in _DV_ASPECTS
    shown = float(aspect or 1) * context.width / context.height
    return encoder != "mpeg2video" or any(abs(shown / each - 1) < 0.01 for each in _MPEG2_SHAPES)


def _told(stream_tag: int, frame_tag: int) -> int:
    return stream_tag if stream_tag != _UNSPECIFIED else frame_tag


def _hdr10_options(encoder: str, mastering: bytes | None, light: bytes | None) -> dict[str, str] | None:
    """AVMasteringDisplayMetadata and AVContentLightMetadata as encoder options; None where it takes none.

    x265 counts chromaticity in 1/50000 and luminance in 1/10000 cd/m² (SMPTE ST 2086 in H.265 D.2.28),
    SVT-AV1 takes plain decimals.
    """
    if encoder not in ("libx265", "libsvtav1"):
        return None
    parts: list[str] = []
    if mastering is not None:
        numbers = probe.mastering_of(mastering)
        red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y, bright, dark = numbers
        order = (("G", green_x, green_y), ("B", blue_x, blue_y), ("R", red_x, red_y), ("WP", white_x, white_y))
        if encoder == "libx265":
            points = "".join(f"{name}({round(x * 50000)},{round(y * 50000)})" for name, x, y in order)
            parts.append(f"master-display={points}L({round(bright * 10000)},{round(dark * 10000)})")
        else:
            points = "".join(f"{name}({x:.5f},{y:.5f})" for name, x, y in order)
            parts.append(f"mastering-display={points}L({bright:.4f},{dark:.4f})")
    if light is not None:
        most, mean = struct.unpack("=2I", light[:8])
        parts.append(f"max-cll={most},{mean}" if encoder == "libx265" else f"content-light={most},{mean}")
    return {"x265-params" if encoder == "libx265" else "svtav1-params": ":".join(parts)}
