"""Which of the planned ways to store a video works: a picture is written to memory in each and read back."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

from rtlit.avframe import alpha_of, color_of, copy_tags, is_transparent, planar_name, planes_of, software_format
from rtlit.errors import OutputError, UsageError
from rtlit.video import probe
from rtlit.video.convert import LIMITED, MATRIX_TAGS, convert, yuv_of_rgb
from rtlit.video.encoder import HDR_TRANSFERS, add_video
from rtlit.video.formats import DEFAULTS, EncoderPlan, nothing_fits, plans, refused
from rtlit.video.pixels import has_alpha, opaque_format
from rtlit.video.settings import VideoSettings
from rtlit.video.writer import in_time

if TYPE_CHECKING:
    from av.codec.context import CodecContext
    from av.packet import Packet
    from numpy.typing import NDArray

    from rtlit.video.reader import Reader

# Mean difference of what comes back: coarse quantisation stays below, swapped or shifted planes don't.
_LOSSY_LIMIT, _LOSSLESS_LIMIT = 0.06, 0.002
_FRAMES = 2
_WRONG_PARAMETER = re.compile("Error parsing option|Unknown option|Invalid value")
# Where FFmpeg's names of a container differ: writing, reading.
_DEMUXERS = {"vob": "mpeg", "webm": "matroska", "3gp": "mov"}
_UNTOLD = (0, 2)
# Numbers for the same primaries, and for the same curve (ITU-T H.273).
_ALIKE = {"primaries": {7: 6}, "transfer": {6: 1, 14: 1, 15: 1}}
_MATRIX_NAMES = {"bt601": "BT.601", "bt709": "BT.709", "bt2020": "BT.2020"}


def choose_plan(
    reader: Reader, first: av.VideoFrame, size: tuple[int, int], muxer: str, video: VideoSettings
) -> EncoderPlan:
    """The best plan that a picture comes back from as it was: its samples, transparency, range and matrix.

    What an encoder takes and what its decoder finds in the container differ in too many ways for a table: tags that
    mean other pixels, rows the other way up, ranges that nothing tells. Colours that can't be told are converted.

    Args:
        first: the first decoded frame.
        size: (width, height) to encode.

    Raises:
        UsageError: the asked encoder refuses its settings. OutputError: nothing fits the container.
    """
    context, stored = reader.stream.codec_context, software_format(first)
    codec = "y4m" if reader.container.format.name == "yuv4mpegpipe" else context.name
    transparent = is_transparent(first)
    errors: list[Exception] = []
    for plan in plans(codec, stored, size, muxer, video, context.profile, context.bit_rate, transparent):
        try:
            return _tried(plan, reader, first, size, muxer)
        except (av.error.FFmpegError, OSError, ValueError, OutputError, UsageError) as error:
            errors.append(error)
            if isinstance(error, UsageError) and _starts_without_settings(plan, video, reader, first, size, muxer):
                raise
    if errors and isinstance(errors[0], UsageError):
        raise errors[0]
    if errors and video.codec is not None:
        raise OutputError(f"--codec {video.codec}: {muxer} can't hold it ({probe.reason(errors[0])}); try .mkv")
    raise nothing_fits(context.name, stored, size, muxer)


def _starts_without_settings(
    plan: EncoderPlan, video: VideoSettings, reader: Reader, first: av.VideoFrame, size: tuple[int, int], muxer: str
) -> bool:
    """Whether what is asked of an encoder is what keeps it from starting: another one isn't what was asked for."""
    if video.crf is None and video.preset is None and not video.options:
        return False
    try:
        _round_trip(replace(plan, options=dict(DEFAULTS.get(plan.name, {}))), reader, first, size, muxer)
    except (av.error.FFmpegError, OSError, ValueError, OutputError, UsageError):
        return False
    return True


def _tried(plan: EncoderPlan, reader: Reader, first: av.VideoFrame, size: tuple[int, int], muxer: str) -> EncoderPlan:
    """The plan, with the colour that is told in the end."""
    sent, back = _round_trip(plan, reader, first, size, muxer)
    if back is None:
        return plan
    there, here = color_of(back), color_of(sent)
    if (there.matrix, there.full_range) != (here.matrix, here.full_range):
        if plan.color is not None or "rgb" in (there.matrix, here.matrix):
            raise OutputError("it is read back in other colours")
        stored = "full range" if there.full_range else "limited range"
        how = f"{_MATRIX_NAMES[there.matrix]} and {stored}" if there.matrix != here.matrix else stored
        line = f"colours are stored in {how}: {plan.name} in {muxer} can't tell the input's"
        changed = replace(plan, color=there, warnings=[*plan.warnings, line])
        return _tried(changed, reader, first, size, muxer)
    plan = _told(plan, sent, back, muxer)
    had_alpha = is_transparent(first) or has_alpha(planar_name(software_format(first)))
    if had_alpha and has_alpha(plan.work_format) and not has_alpha(planar_name(back.format)):
        raise OutputError("its transparency is not read back")
    codec = av.Codec(plan.name, "w")
    limit = _LOSSLESS_LIMIT if codec.lossless and not codec.lossy else _LOSSY_LIMIT
    peak = opaque_format(plan.work_format).max_code
    planes = zip(_planes(sent, plan.work_format), _planes(back, plan.work_format), strict=True)
    if any(one.shape != other.shape or np.abs(one - other).mean() > limit * peak for one, other in planes):
        raise OutputError("other pixels are read back")
    return plan


def _told(plan: EncoderPlan, sent: av.VideoFrame, back: av.VideoFrame, muxer: str) -> EncoderPlan:
    """The plan, with a warning for primaries and a transfer characteristic that nothing tells in the end."""
    lost = []
    for what, kind, was, now in (
        ("primaries", ColorPrimaries, sent.color_primaries, back.color_primaries),
        ("transfer", ColorTrc, sent.color_trc, back.color_trc),
    ):
        was, now = (_ALIKE[what].get(int(tag), int(tag)) for tag in (was, now))
        if was not in (*_UNTOLD, now):
            name = HDR_TRANSFERS.get(was) if kind is ColorTrc else None
            lost.append(f"{what} ({name or (kind(was).name if was in set(kind) else was)})")
    if not lost:
        return plan
    line = f"the colour's {' and '.join(lost)} can't be told by {plan.name} in {muxer}: players take others for granted"
    return replace(plan, warnings=[*plan.warnings, line])


def _planes(frame: av.VideoFrame, name: str) -> list[NDArray[np.int32]]:
    """All planes, transparency too where the frame has it, in a planar format."""
    alpha = has_alpha(planar_name(frame.format))
    frame = convert(frame, name) if frame.format.name != name else frame
    found = [*planes_of(frame), *([alpha_of(frame)] if alpha else [])]
    return [plane.astype(np.int32) for plane in found if plane is not None]


def _round_trip(
    plan: EncoderPlan, reader: Reader, first: av.VideoFrame, size: tuple[int, int], muxer: str
) -> tuple[av.VideoFrame, av.VideoFrame | None]:
    """(what is encoded, what is decoded); None for a container that FFmpeg doesn't read."""
    picture = _picture(plan.work_format, size)
    copy_tags(first, picture)
    if color_of(first).matrix == "rgb" and not opaque_format(plan.work_format).is_rgb:
        picture.colorspace, picture.color_range = MATRIX_TAGS[yuv_of_rgb(first.height).matrix], LIMITED
    sent = convert(picture, plan.pixel_format, color=plan.color)
    file = io.BytesIO()
    options = {"strict": "-1"} if muxer == "yuv4mpegpipe" else {}
    with av.open(file, "w", format=muxer, container_options=options) as output:
        video = add_video(output, reader, first, plan, size, lambda line: None)
        try:
            with probe.listening():
                _open(video.codec_context, plan)
        except (av.error.FFmpegError, ValueError) as error:
            raise refused(plan, probe.reason(error)) from None
        rate = video.codec_context.framerate or Fraction(25)
        step = max(1, round(1 / (rate * video.codec_context.time_base)))
        packets: list[Packet[Any]] = []
        for index in range(_FRAMES):
            sent.pts, sent.duration, sent.time_base = index * step, step, video.codec_context.time_base
            packets += video.encode(sent)
        packets += video.encode(None)
        output.mux(in_time(packets) if plan.name == "libx265" else packets)
    file.seek(0)
    # By name: two small pictures may be too little to tell a container by.
    try:
        name = av.ContainerFormat(_DEMUXERS.get(muxer, muxer), "r").name
    except ValueError:
        return sent, None
    back = av.open(file, "r", format=name)
    with back:
        stream = next(iter(back.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise OutputError("it is read back as data")
        decoder = probe.decoder_of(stream)
        for packet in back.demux(stream):
            for frame in decoder.decode(packet):
                return sent, frame
    raise OutputError("no picture is read back")


def _open(encoder: CodecContext, plan: EncoderPlan) -> None:
    """Open an encoder. Of its library's own parameters it skips the wrong ones, and says so as a warning alone."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as said:
            encoder.open()
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
    wrong = [line.strip().rstrip(".") for *_, line in said if _WRONG_PARAMETER.match(line)]
    if wrong and any(key.endswith("-params") for key in plan.options):
        raise ValueError("; ".join(wrong))


def _picture(name: str, size: tuple[int, int]) -> av.VideoFrame:
    """A planar frame of ramps, each plane with another slope, none the same mirrored or turned."""
    picture = av.VideoFrame(*size, name)
    alpha = alpha_of(picture)
    peak = opaque_format(name).max_code
    for index, plane in enumerate((*planes_of(picture), *([] if alpha is None else [alpha]))):
        down, across = (np.linspace(0, 1, length) for length in plane.shape)
        share = (0.1, 0.35, 0.6, 0.8)[index]
        plane[:] = peak * (0.15 + 0.6 * (share * down[:, None] + (1 - share) * (1 - across)))
    return picture
