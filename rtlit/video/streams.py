"""What becomes of the streams beside the video: copied, converted to what the target holds, or dropped and said."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, cast

import av
from av.stream import Disposition

from rtlit.video import matroska

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import AttachmentStream, Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream

# Takes a packet of the input's stream (None at the end) and gives what to write.
Route: TypeAlias = "Callable[[Packet[Stream] | None], list[Packet[Stream]]]"

_TEXT_SUBTITLES = {"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"}
_SUBTITLE_TARGET = {"matroska": "subrip", "mp4": "mov_text", "mov": "mov_text", "webm": "webvtt", "3gp": "mov_text"}
_AUDIO_TARGET = {"webm": "libopus", "vob": "mp2", **dict.fromkeys(("mp4", "mov", "flv", "mpegts", "3gp"), "aac")}
_EMPTY_MOV_TEXT = 2  # bytes: a length of 0
_COVER_MIME = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"), "webp": ("webp", "image/webp")}
# libavformat lets anything into a program stream, and fails at its header.
_PROGRAM_STREAM_AUDIO = {"mp2", "mp3", "mp3float", "ac3", "dts", "pcm_dvd"}
# Matroska's statistics describe the streams of the file they were in; the muxer writes its own.
_STATISTICS = ("BPS", "DURATION", "NUMBER_OF_", "_STATISTICS", "SOURCE_ID")
_STALE_TAGS = (*_STATISTICS, "ENCODER", "MAJOR_BRAND", "MINOR_VERSION", "COMPATIBLE_BRANDS")


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags that stay true in the output."""
    return {key: value for key, value in tags.items() if not key.upper().startswith(_STALE_TAGS)}


def route(stream: Stream, output: OutputContainer, cover: bytes | None, warn: Callable[[str], None]) -> Route | None:
    """Add the output's counterpart of an input stream; None where it has none."""
    label = f"{stream.type} stream {stream.index}"
    # A stream that FFmpeg knows no codec for has a name only where it is data.
    codec = stream.codec_context.name if stream.codec_context else getattr(stream, "name", None) or "unknown"
    if stream.type == "attachment":
        return _attachment(cast("AttachmentStream", stream), output, label, warn)
    if stream.disposition & Disposition.attached_pic:
        return _cover(stream, output, cover, codec, warn)
    if stream.codec_context is None:
        warn(f"{label} is dropped: its codec is unknown here")
        return None
    if output.format.name == "vob" and stream.type == "audio" and codec not in _PROGRAM_STREAM_AUDIO:
        return _convert(stream, output, label, codec, warn)
    try:
        return _copy(stream, output)
    except ValueError:
        return _convert(stream, output, label, codec, warn)


def _attachment(
    stream: AttachmentStream, output: OutputContainer, label: str, warn: Callable[[str], None]
) -> Route | None:
    if output.format.name != "matroska":
        warn(f"{label} ({stream.name}) is dropped: {output.format.name} holds no attachments")
        return None
    mime = stream.mimetype or "application/octet-stream"
    copy = output.add_attachment(stream.name or "attachment", mime, stream.data)
    copy.metadata.update(stream.metadata)
    return None


def _cover(
    stream: Stream, output: OutputContainer, cover: bytes | None, codec: str, warn: Callable[[str], None]
) -> Route | None:
    if output.format.name == "matroska" and cover is not None and codec in _COVER_MIME:
        # Matroska keeps covers as attachments, which must be there before the header.
        suffix, mime = _COVER_MIME[codec]
        copy = output.add_attachment(stream.metadata.get("filename", f"cover.{suffix}"), mime, cover)
        copy.metadata.update({**stream.metadata, **copy.metadata})
        return None
    if output.format.name == "mp4" and codec in _COVER_MIME:
        return _copy(stream, output)
    warn(f"cover picture (stream {stream.index}) is dropped: {output.format.name} can't hold it")
    return None


def _copy(stream: Stream, output: OutputContainer) -> Route:
    copy = output.add_stream_from_template(stream, opaque=True)
    _describe(stream, copy)
    # MP4's muxer writes an empty sample wherever a subtitle ends, so those of the input would double.
    fillers = stream.codec_context.name == "mov_text"

    def write(packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        if packet is None or fillers and packet.size <= _EMPTY_MOV_TEXT:
            return []
        if packet.dts is None and packet.pts is None:
            if not stream.disposition & Disposition.attached_pic:
                return []
            packet.pts = packet.dts = 0
        packet.stream = copy
        return [packet]

    return write


def _describe(stream: Stream, copy: Stream) -> None:
    copy.metadata.update(kept_tags(stream.metadata))
    if isinstance(stream, av.VideoStream):
        name_with_aspect(copy, stream)
    copy.disposition = stream.disposition
    if copy.container.format.name == "mpegts":
        copy.id = stream.id


def name_with_aspect(copy: Stream, source: VideoStream) -> None:
    """Leave the pixel aspect ratio in a Matroska track's name, for `matroska.complete` to write it where it belongs."""
    aspect = source.sample_aspect_ratio
    if copy.container.format.name in ("matroska", "webm") and aspect not in (None, 0, 1):
        copy.metadata["title"] = matroska.marked(copy.metadata.get("title", ""), aspect)


def _convert(
    stream: Stream, output: OutputContainer, label: str, codec: str, warn: Callable[[str], None]
) -> Route | None:
    container = output.format.name
    if stream.type == "audio" and container in _AUDIO_TARGET:
        target = _AUDIO_TARGET[container]
        warn(f"{label} is converted from {codec} to {target}: {container} can't hold {codec}")
        return _convert_audio(cast("AudioStream", stream), output, target)
    if stream.type == "subtitle" and codec in _TEXT_SUBTITLES and container in _SUBTITLE_TARGET:
        target = _SUBTITLE_TARGET[container]
        warn(f"{label} is converted from {codec} to {target}: {container} can't hold {codec}")
        return _convert_subtitles(cast("SubtitleStream", stream), output, target)
    warn(f"{label} ({codec}) is dropped: {container} can't hold it")
    return None


def _convert_audio(stream: AudioStream, output: OutputContainer, target: str) -> Route:
    rate = 48000 if target == "libopus" else stream.codec_context.sample_rate
    copy = output.add_stream(target, rate=rate)
    assert isinstance(copy, av.AudioStream)
    copy.codec_context.layout = stream.codec_context.layout
    copy.codec_context.time_base = Fraction(1, rate)
    copy.codec_context.bit_rate = 96_000 * max(1, stream.codec_context.channels)
    _describe(stream, copy)

    def write(packet: Packet[Stream] | None) -> list[Packet[Stream]]:
        if packet is None:
            return list(copy.encode(None))
        packets: list[Packet[Stream]] = []
        for frame in packet.decode():
            assert isinstance(frame, av.AudioFrame)
            packets.extend(copy.encode(frame))
        return packets

    return write


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
        copied = _copy(stream, output)
    except ValueError:
        warn(f"video stream {stream.index} is dropped: {output.format.name} can't hold it")
        return None
    warn(f"video stream {stream.index} is copied as it is: only the best video stream is enhanced")
    return copied
