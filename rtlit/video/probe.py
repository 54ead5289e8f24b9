"""Opening an input: which stream is the video, and plain words for what is wrong with a file."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from rtlit import files
from rtlit.errors import InputError

if TYPE_CHECKING:
    import av
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # libavformat's name of its demuxer
_MAX_DECODER_THREADS = 8
# Demuxers of files that hold a video, for `holds_video`: FFmpeg has others that take any text for one, or open URLs.
_VIDEO_FORMATS = (
    "3dostr,amv,apng,asf,av1,avi,bink,dhav,dv,dxa,film_cpk,flic,flv,gif,gxf,h261,h263,h264,hevc,ivf,kux,matroska,"
    "m4v,mov,mpeg,mpegts,mpegvideo,mv,mxf,nsv,nut,nuv,obu,ogg,r3d,rm,roq,rpl,smk,swf,thp,vc1,vc1test,vvc,wtv,"
    "yuv4mpegpipe"
)
_PICTURES = (".avif", ".heic", ".heif", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")  # AVIF and HEIF are MP4s
# Errors of the system that leave nothing to ask.
_SAY_ALL = (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EFBIG, errno.EPIPE, errno.EIO)
_listening, _listeners = threading.Lock(), 0
_OPTIONS = {
    "pattern_type": "none",  # a picture named frame%d.png or a*.png is that one, not a series
    "merge_pmt_versions": "1",  # a stream that goes on under another number is the same one
}
# Boxes of ISO/IEC 23001-7 (common encryption) and of PIFF's older uuid variant.
_ENCRYPTION_BOXES = (b"encv", b"pssh", b"senc", bytes.fromhex("a2394f525a9b4f14a2446c427c648df4"))
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def name_of(source: str | Path | BinaryIO) -> str:
    """What messages call a source or target."""
    if isinstance(source, (str, Path)):
        return str(source)
    return str(getattr(source, "name", "stream"))


def reason(error: BaseException) -> str:
    """An FFmpeg or OS error in a few words: FFmpeg's own sentence, where it was heard, and what its number means."""
    meaning = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().rstrip(".")
    log = getattr(error, "log", None)
    if not log or getattr(error, "errno", None) in _SAY_ALL:
        return meaning
    said = " ".join(log[2].split()).rstrip(".")
    return f"{said} ({meaning})" if said and meaning.lower() not in said.lower() else said or meaning


@contextmanager
def listening() -> Iterator[None]:
    """Errors raised inside bring FFmpeg's own sentence along.

    Not for longer than needed: closing a decoder waits for its threads with Python's lock held, and a thread that has
    something to say waits for that lock.
    """
    import av

    global _listeners
    with _listening:
        ours = _listeners > 0 or av.logging.get_level() is None
        if ours:
            _listeners += 1
            av.logging.set_level(av.logging.PANIC)  # errors are kept for exceptions at any level; nothing is printed
    try:
        yield
    finally:
        with _listening:
            if ours:
                _listeners -= 1
                if not _listeners:
                    av.logging.set_level(None)


def open_input(source: str | Path | BinaryIO, hwaccel: HWAccel | None = None) -> InputContainer:
    """Open a file or a readable stream, to be decoded in software or by `hwaccel`.

    Raises:
        InputError: there is no such file, it isn't a video, it is empty, damaged or encrypted.
    """
    import av
    from av.container import Flags

    name = name_of(source)
    if isinstance(source, (str, Path)):
        _check_file(Path(source), name)
    try:
        file = files.url_of(source) if isinstance(source, (str, Path)) else source
        with listening():
            container = av.open(file, "r", container_options=_OPTIONS, metadata_errors="replace", hwaccel=hwaccel)
        # PyAV asks for guesses at missing times of showing, which are wrong where AVI has B-frames.
        container.flags &= ~cast(int, Flags.gen_pts.value)
        return container
    except av.error.InvalidDataError as error:
        if is_encrypted(source):
            raise InputError(f"{name}: is encrypted; rtlit can't read protected video") from None
        what = f"is not a video, or is truncated or damaged beyond reading ({reason(error)})"
        raise InputError(f"{name}: {what}") from None
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
    if path.is_file() and _is_animated_webp(path):
        raise InputError(f"{name}: is an animated WebP, which FFmpeg can't read; convert it to GIF or APNG first")


def _is_animated_webp(path: Path) -> bool:
    """Whether the animation flag of the VP8X chunk is set (RFC 9649 §2.7)."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def is_seekable(source: str | Path | BinaryIO) -> bool:
    """Whether an input can be gone back in: a regular file, or a stream that says so."""
    if isinstance(source, (str, Path)):
        return os.path.isfile(source)
    return bool(getattr(source, "seekable", lambda: hasattr(source, "seek"))())


def is_encrypted(source: str | Path | BinaryIO) -> bool:
    """Whether the head of a file holds MP4 encryption boxes."""
    if not isinstance(source, (str, Path)) or not os.path.isfile(source):  # a pipe would not give it again
        return False
    with open(source, "rb") as file:
        head = file.read(1 << 20)
    return b"ftyp" in head[:64] and any(box in head for box in _ENCRYPTION_BOXES)


def holds_video(path: Path) -> bool:
    """Whether FFmpeg finds a video in a file: more than a picture, and nothing that refers to other files."""
    import av
    from av.stream import Disposition

    if path.suffix.lower() in _PICTURES:
        return False
    try:
        with av.open(files.url_of(path), container_options={"format_whitelist": _VIDEO_FORMATS}) as container:
            return any(not s.disposition & Disposition.attached_pic for s in container.streams.video)
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def choose_video(container: InputContainer, name: str) -> VideoStream:
    """The stream to enhance: the first of the largest that aren't cover pictures.

    Raises:
        InputError: there is none, or no decoder for it.
    """
    from av.stream import Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams if s.type != "video"})) or "nothing"
        cover = " but a cover picture" if container.streams.video else ""
        raise InputError(f"{name}: has no video stream{cover} (it holds {kinds})")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise InputError(f"{name}: its video codec has no decoder here")
    # An animated AVIF has a still of the same size before the film.
    stream = max(decodable, key=lambda s: (s.codec_context.width * s.codec_context.height, s.frames != 1))
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


def asf_duration(source: str | Path | BinaryIO) -> int:
    """Microseconds that the header of a WMV file promises; 0 where it can't be read.

    ASF specification 3.2, File Properties Object: play duration in units of 100 ns, preroll in milliseconds.
    """
    if not isinstance(source, (str, Path)) or not os.path.isfile(source):
        return 0
    with open(source, "rb") as file:
        head = file.read(1 << 16)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 88:
        return 0
    duration, _, preroll = struct.unpack_from("<3Q", head, at + 64)
    return max(0, int(duration) // 10 - int(preroll) * 1000)


def end_of(stream: Stream, base: Fraction) -> int | None:
    """Where an MP4 edit list cuts the stream off, less `base` seconds, in its ticks: the last packet may be longer."""
    if stream.duration is None or stream.time_base is None or "mp4" not in stream.container.format.name:
        return None
    return (stream.start_time or 0) + stream.duration - round(base / stream.time_base)


def origin_of(container: InputContainer, stream: VideoStream) -> Fraction:
    """Seconds at which the video stream's first frame is shown, on the container's clock."""
    import av

    if stream.start_time is not None and stream.time_base:
        return stream.start_time * stream.time_base + delay_of(container, stream)
    return Fraction(container.start_time or 0, av.time_base)


def delay_of(container: InputContainer, stream: VideoStream) -> Fraction:
    """Seconds by which frames of AVI are shown late: it has times of decoding alone, and B-frames wait for others."""
    if container.format.name != "avi" or stream.time_base is None:
        return Fraction(0)
    return stream.codec_context.reorder_depth * stream.time_base


# Kinds of side data, by their number in libavutil's frame.h, that PyAV's enumeration ends before.
_UNNAMED = {28: "LCEVC", 29: "VIEW_ID", 30: "3D_REFERENCE_DISPLAYS", 31: "EXIF"}


@cache
def _name_all_kinds() -> None:
    """Let PyAV show side data of any kind: one without a name in its enumeration makes all the others unreadable."""
    from av.sidedata.sidedata import Type

    def named(kinds: type[Type], value: int) -> Type:
        kind: Any = object.__new__(kinds)
        kind._name_, kind._value_ = _UNNAMED.get(value, f"KIND_{value}"), value
        return cast("Type", kind)

    setattr(Type, "_missing_", classmethod(named))  # noqa: B010 (mypy would have it a method of the class)


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """A frame's side data by FFmpeg's name of its kind (PyAV's mapping iterates over values, not keys)."""
    from av.dictionary import Dictionary

    _name_all_kinds()
    kinds = {}
    for data in cast("Iterable[SideData]", frame.side_data):
        kinds[data.type.name] = bytes(data)
        for part in gc.get_referents(data):
            # PyAV frees the frame's own dictionary (of a PNG's named ICC profile) a second time, and crashes: let it
            # never free one that isn't empty.
            if isinstance(part, Dictionary) and len(part):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))
    return kinds


def mastering_of(data: bytes) -> list[float]:
    """AVMasteringDisplayMetadata: x and y of red, green, blue and white, most and least luminance in cd/m²."""
    rationals = struct.unpack("=20i", data[:80])
    *points, least, most = (rationals[i] / (rationals[i + 1] or 1) for i in range(0, 20, 2))
    return [*points, most, least]


def display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """The nine numbers that turn or mirror the picture when it is shown; None where it is shown as stored."""
    data = side_data(frame).get("DISPLAYMATRIX")
    return list(struct.unpack("=9i", data)) if data is not None else None


def is_transposed(matrix: list[int] | None) -> bool:
    """Whether the picture is shown turned by 90 or 270 degrees."""
    return matrix is not None and abs(matrix[1]) > abs(matrix[0])
