"""What becomes of the streams beside the video: copied, converted to what the target holds, or dropped and said."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, cast

import av
from av.bitstream import BitStreamFilterContext
from av.format import Flags
from av.rational import AVRational
from av.stream import Disposition

from rtlit.video import described, matroska
from rtlit.video.holds import Holds, holds
from rtlit.video.sound import SoundConverter, named_layout, plan_sound

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import AttachmentStream, Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream

# Takes a packet of the input's stream (None at the end) and gives what to write.
Route: TypeAlias = "Callable[[Packet[Stream] | None], list[Packet[Stream]]]"

_EMPTY_MOV_TEXT = 2  # bytes: a length of 0
_AMR_FRAME = Fraction(1, 50)  # seconds
_COVER_MIME = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"), "webp": ("webp", "image/webp")}
# A packet whose time goes back by less than this is put behind the last one; else what it holds was there already.
_MOVED_SECONDS = Fraction(1, 10)
# Matroska's statistics describe the streams of the file they were in; the muxer writes its own.
_STATISTICS = ("BPS", "DURATION", "NUMBER_OF_", "_STATISTICS", "SOURCE_ID")
_STALE_TAGS = (*_STATISTICS, "ENCODER", "MAJOR_BRAND", "MINOR_VERSION", "COMPATIBLE_BRANDS")


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags that stay true in the output."""
    return {key: value for key, value in tags.items() if not key.upper().startswith(_STALE_TAGS)}


def route(stream: Stream, output: OutputContainer, cover: bytes | None, warn: Callable[[str], None]) -> Route | None:
    """Add the output's counterpart of an input stream; None where it has none."""
    label = f"{stream.type} stream {stream.index}"
    if stream.type == "attachment":
        return _attachment(cast("AttachmentStream", stream), output, label, warn)
    codec = _codec(stream)
    if stream.disposition & Disposition.attached_pic:
        return _cover(stream, output, cover, codec, warn)
    if stream.codec_context is None:
        warn(f"{label} is dropped: its codec is unknown here")
        return None
    row = holds(output)
    held = row.sound if stream.type == "audio" else row.subtitles
    if (held is None or codec in held) and _writes_header(stream, output):
        return _copy(stream, output, label, warn)
    return _convert(stream, output, row, label, codec, warn)


def _codec(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec, whichever decoder reads it."""
    context = stream.codec_context
    return context.codec.canonical_name if context else getattr(stream, "name", None) or "unknown"


def _writes_header(stream: Stream, output: OutputContainer) -> bool:
    """Whether the muxer takes this very stream: not its codec's name alone decides, also rate, channels and extradata.

    What only its header refuses would otherwise come out with the first frame.
    """
    muxer = output.format.name
    trial = av.open(io.BytesIO(), "w", format=muxer, container_options=dict(output.container_options))
    try:
        _add_copy(stream, trial)
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    finally:
        with suppress(ValueError, av.error.FFmpegError):
            trial.close()
    return True


def _add_copy(stream: Stream, output: OutputContainer) -> Stream:
    """The output's stream for packets of an input's.

    Raises:
        ValueError, av.error.FFmpegError: the container doesn't take the codec.
    """
    try:
        copy = output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        if stream.type != "audio" or output.format.name != "matroska":
            raise
        # What Windows' ACM knows Matroska holds too, but PyAV asks a list that lacks it: fill in the stream later.
        copy = output.add_mux_stream("flac")
        BitStreamFilterContext("null", in_stream=stream, out_stream=copy)
        copy.time_base = stream.time_base
        return copy
    if isinstance(copy, av.AudioStream) and copy.codec_context.channels:
        copy.codec_context.layout = named_layout(copy.codec_context.layout)
        if output.format.name == "flv" and copy.codec_context.channels > 2:
            # AAC's own header tells the speakers. Told here too, they become a packet that older players take for
            # another stream.
            copy.codec_context.layout = "stereo"
    return copy


def _attachment(
    stream: AttachmentStream, output: OutputContainer, label: str, warn: Callable[[str], None]
) -> Route | None:
    if not holds(output).attachments:
        warn(f"{label} ({stream.name}) is dropped: {output.format.name} holds no attachments")
        return None
    mime = stream.mimetype or "application/octet-stream"
    copy = output.add_attachment(stream.name or "attachment", mime, stream.data)
    copy.metadata.update(stream.metadata)
    return None


def _cover(
    stream: Stream, output: OutputContainer, cover: bytes | None, codec: str, warn: Callable[[str], None]
) -> Route | None:
    row = holds(output)
    if row.attachments and cover is not None and codec in _COVER_MIME:
        # Matroska keeps covers as attachments, which must be there before the header.
        suffix, mime = _COVER_MIME[codec]
        copy = output.add_attachment(stream.metadata.get("filename", f"cover.{suffix}"), mime, cover)
        copy.metadata.update({**stream.metadata, **copy.metadata})
        return None
    if row.covers and not row.attachments and codec in _COVER_MIME and _writes_header(stream, output):
        return _copy(stream, output, f"cover picture {stream.index}", warn)
    warn(f"cover picture (stream {stream.index}) is dropped: {output.format.name} can't hold it")
    return None


def _copy(stream: Stream, output: OutputContainer, label: str, warn: Callable[[str], None]) -> Route:
    copy = _add_copy(stream, output)
    _describe(stream, copy)
    codec = _codec(stream)
    cover = bool(stream.disposition & Disposition.attached_pic)
    in_order = _Order(stream, copy, label, warn)

    def write(packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        # MP4's muxer writes an empty sample wherever a subtitle ends, so those of the input would double.
        if packet is None:
            return in_order(None)
        if codec == "mov_text" and packet.size <= _EMPTY_MOV_TEXT:
            return []
        if packet.dts is None and packet.pts is None:
            if not cover:
                return []
            packet.pts = packet.dts = 0
        packets = _single_frames(packet) if codec == "amr_nb" else [packet]
        return [one for each in packets for one in in_order(each)]

    return write


class _Order:
    """Sees that packets go to the muxer in the order of their times, which it demands: else the whole file fails."""

    def __init__(self, stream: Stream, copy: Stream, label: str, warn: Callable[[str], None]) -> None:
        self._copy, self._label, self._warn = copy, label, warn
        nonstrict = Flags.ts_nonstrict in Flags(copy.container.format.flags)
        self._step = 0 if stream.type == "subtitle" or nonstrict else 1
        self._last: int | None = None
        self._moved = self._dropped = 0

    def __call__(self, packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        if packet is None:
            if self._moved or self._dropped:
                fate = f"{self._moved} moved, {self._dropped} dropped"
                self._warn(f"{self._label}: packets whose time goes back: {fate}")
            return []
        base = self._copy.time_base
        if base is not None and packet.time_base is not None:
            packet.rescale_ts(AVRational(base.numerator, base.denominator))  # the muxer compares in its own ticks
        # With B-frames, times of showing go back and forth; a muxer guesses the others.
        dts = packet.pts if packet.dts is None and packet.stream.type != "video" else packet.dts
        if self._last is not None and dts is not None and dts < self._last + self._step:
            back = self._last + self._step - dts
            if base is not None and back * base > _MOVED_SECONDS:
                self._dropped += 1
                return []
            self._moved += back > 1  # one tick is rounding
            dts += back
            packet.dts = dts
            packet.pts = dts if packet.pts is None else max(packet.pts, dts)
        self._last = self._last if dts is None else dts
        packet.stream = self._copy
        return [packet]


def _single_frames(packet: Packet[Stream]) -> list[Packet[Stream]]:
    """A packet of AMR frame by frame: old phones put several into one, which MP4's muxer refuses."""
    parser = packet.stream.codec_context
    frames = [*parser.parse(bytes(packet)), *parser.parse(None)]
    if len(frames) < 2:
        return [packet]
    for index, frame in enumerate(frames):
        frame.time_base, frame.is_keyframe = packet.time_base, True
        frame.duration = round(_AMR_FRAME / packet.time_base)
        frame.pts = frame.dts = (packet.pts or 0) + round(index * _AMR_FRAME / packet.time_base)
    return frames


def _describe(stream: Stream, copy: Stream) -> None:
    copy.metadata.update(kept_tags(stream.metadata))
    if isinstance(stream, av.VideoStream):
        name_with_aspect(copy, stream)
    copy.disposition = stream.disposition
    if copy.container.format.name == stream.container.format.name == "mpegts":
        copy.id = stream.id


def name_with_aspect(copy: Stream, source: VideoStream) -> None:
    """Leave the pixel aspect ratio in a Matroska track's name, for `matroska.complete` to write it where it belongs."""
    aspect = source.sample_aspect_ratio
    if copy.container.format.name in ("matroska", "webm") and aspect not in (None, 0, 1):
        copy.metadata["title"] = matroska.marked(copy.metadata.get("title", ""), aspect)


def _convert(
    stream: Stream, output: OutputContainer, row: Holds, label: str, codec: str, warn: Callable[[str], None]
) -> Route | None:
    container = output.format.name
    if isinstance(stream, av.AudioStream) and (plan := plan_sound(stream, row.lossless, row.lossy)):
        warn(f"{label} is converted from {codec} to {plan.described(stream)}: {container} can't hold {codec}")
        converter = SoundConverter(stream, output, plan, label, warn)
        _describe(stream, converter.copy)
        return converter
    if stream.type == "subtitle" and row.text and stream.codec_context.codec.text_sub:
        warn(f"{label} is converted from {codec} to {row.text}: {container} can't hold {codec}")
        return _convert_subtitles(cast("SubtitleStream", stream), output, row.text)
    warn(f"{label} ({codec}) is dropped: {container} can't hold it")
    return None


def _convert_subtitles(stream: SubtitleStream, output: OutputContainer, target: str) -> Route:
    copy = cast("SubtitleStream", output.add_stream(target))
    _describe(stream, copy)
    decoder, encoder = stream.codec_context, copy.codec_context
    decoder.open(strict=False)
    encoder.subtitle_header = decoder.subtitle_header
    encoder.time_base = Fraction(1, 1000)
    copy.time_base = Fraction(1, 1000)

    def write(packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        subtitle = decoder.decode2(packet) if packet is not None and packet.size else None
        if packet is None or subtitle is None or not len(subtitle):
            return []
        converted: Packet[Stream] = encoder.encode_subtitle(subtitle)
        converted.stream, converted.time_base = copy, packet.time_base
        converted.pts, converted.dts, converted.duration = packet.pts, packet.pts, packet.duration
        return [converted]

    return write


def route_extra_video(stream: VideoStream, output: OutputContainer, warn: Callable[[str], None]) -> Route | None:
    """Copy a second video stream as it is."""
    if stream.codec_context is None:
        warn(f"video stream {stream.index} is dropped: its codec is unknown here")
        return None
    try:
        copied = _copy(stream, output, f"video stream {stream.index}", warn)
    except (ValueError, av.error.FFmpegError):
        warn(f"video stream {stream.index} is dropped: {output.format.name} can't hold it")
        return None
    for lost in described.lost_in_copy(stream, output.format.name):
        warn(f"video stream {stream.index} loses its {lost}: {output.format.name} can't hold it")
    warn(f"video stream {stream.index} is copied as it is: only the best video stream is enhanced")
    return copied
