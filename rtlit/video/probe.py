"""Opening an input: which stream is the video, and plain words for what is wrong with a file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from rtlit.errors import InputError

if TYPE_CHECKING:
    import av
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_MAX_DECODER_THREADS = 8
# Boxes of ISO/IEC 23001-7 (common encryption) and of PIFF's older uuid variant.
_ENCRYPTION_BOXES = (b"encv", b"pssh", b"senc", bytes.fromhex("a2394f525a9b4f14a2446c427c648df4"))


def name_of(source: str | Path | BinaryIO) -> str:
    """What messages call a source or target."""
    if isinstance(source, (str, Path)):
        return str(source)
    return str(getattr(source, "name", "stream"))


def reason(error: BaseException) -> str:
    """An FFmpeg or OS error in a few words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".")


def open_input(source: str | Path | BinaryIO, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a file or a readable stream, to be decoded in software or by `hwaccel`.

    Raises:
        InputError: there is no such file, it isn't a video, it is empty, damaged or encrypted.
    """
    import av

    name = name_of(source)
    if isinstance(source, (str, Path)):
        _check_file(Path(source), name)
    try:
        file = str(source) if isinstance(source, Path) else source
        return av.open(file, "r", metadata_errors="replace", hwaccel=hwaccel)
    except av.error.InvalidDataError:
        if is_encrypted(source):
            raise InputError(f"{name}: is encrypted; rtlit can't read protected video") from None
        raise InputError(f"{name}: is not a video, or is truncated or damaged beyond reading") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{name}: can't be opened: {reason(error)}") from None


def _check_file(path: Path, name: str) -> None:
    if not path.exists():
        raise InputError(f"{name}: no such file")
    if path.is_dir():
        raise InputError(f"{name}: is a directory; name a video in it")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{name}: is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: can't be read: permission denied")


def is_encrypted(source: str | Path | BinaryIO) -> bool:
    """Whether the head of a file holds MP4 encryption boxes."""
    if not isinstance(source, (str, Path)) or not os.path.isfile(source):  # a pipe would not give it again
        return False
    with open(source, "rb") as file:
        head = file.read(1 << 20)
    return b"ftyp" in head[:64] and any(box in head for box in _ENCRYPTION_BOXES)


def choose_video(container: InputContainer, name: str) -> VideoStream:
    """The stream to enhance: the first of the largest that aren't cover pictures.

    Raises:
        InputError: there is none, or no decoder for it.
    """
    from av.stream import Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise InputError(f"{name}: has no video stream (it holds {kinds})")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise InputError(f"{name}: its video codec has no decoder here")
    stream = max(decodable, key=lambda s: s.codec_context.width * s.codec_context.height)
    if stream.codec_context.is_hwaccel:
        return stream  # FFmpeg's frame threads would only hold more of the GPU's surfaces
    stream.codec_context.thread_type = "AUTO"
    # Each frame thread holds frames of its own: more threads than these cost memory at 4K and gain nothing.
    stream.codec_context.thread_count = min(os.cpu_count() or 1, _MAX_DECODER_THREADS)
    return stream


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """What decodes a stream: its own context, or libvpx's where FFmpeg's own decoder would drop the transparency."""
    import av

    context = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}  # in capitals once it was copied as a tag
    if name is None or tags.get("alpha_mode") != "1":
        return context
    decoder = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    decoder.extradata, decoder.thread_count = context.extradata, context.thread_count
    return decoder


def seconds_total(container: InputContainer, stream: VideoStream) -> float | None:
    """The video's length in seconds, as far as the container tells."""
    import av

    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def end_of(stream: Stream) -> int | None:
    """Where an MP4 edit list cuts the stream off, in its time base: the last packet may be longer."""
    if stream.duration is None or "mp4" not in stream.container.format.name:
        return None
    return (stream.start_time or 0) + stream.duration


def origin_of(container: InputContainer, stream: VideoStream) -> Fraction:
    """Seconds at which the video stream starts, on the container's clock."""
    import av

    if stream.start_time is not None and stream.time_base:
        return stream.start_time * stream.time_base
    return Fraction(container.start_time or 0, av.time_base)


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """A frame's side data by FFmpeg's name of its kind (PyAV's mapping iterates over values, not keys)."""
    return {data.type.name: bytes(data) for data in cast("Iterable[SideData]", frame.side_data)}


def display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """The nine numbers that turn or mirror the picture when it is shown; None where it is shown as stored."""
    data = side_data(frame).get("DISPLAYMATRIX")
    return list(struct.unpack("=9i", data)) if data is not None else None


def is_transposed(matrix: list[int] | None) -> bool:
    """Whether the picture is shown turned by 90 or 270 degrees."""
    return matrix is not None and abs(matrix[1]) > abs(matrix[0])
