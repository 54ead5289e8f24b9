"""Opening what is captured and decoding it without delay; plain words for what is wrong with it."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from rtlit.errors import DeviceError, InputError
from rtlit.live.cameras import COMPRESSED, Camera, best_mode, input_format
from rtlit.video import probe

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

    from rtlit.live.source import SourceSettings

Kind: TypeAlias = Literal["camera", "stream", "file"]
NETWORK_SECONDS = 10.0  # for an answer, and between two packets
LAVFI = "lavfi:"
# They send as time goes by, at their sender's clock; what http sends comes as fast as it can, but for camera pictures.
_STREAMS = {"rtsp", "rtsps", "rtp", "srtp", "udp", "tcp", "srt", "rist", "rtmp", "rtmps", "rtmpt"}
_PICTURES = {"mpjpeg", "mjpeg", "jpeg_pipe", "image2pipe"}
_POLL_SECONDS = 0.002  # between two looks whether the camera has a frame
_MAX_SLICED = 1920 * 1088
_UNSPECIFIED, _BT601 = 2, 6  # AVCOL_SPC_…
_UNPLUGGED, _SILENT = "unplugged", f"nothing for {NETWORK_SECONDS:g} s"
_CREDENTIALS = re.compile(r"//[^/@]*@")


class Lost(Exception):
    """An input broke off; the text is the reason, in a few words."""


class Input:
    """An input, open; all of it is used by one thread.

    Attributes:
        kind: a camera or stream is taken as it comes, a file is paced by its timestamps.
        name, description: for people.
        step: seconds between two frames, as far as known.
        skipped: packets that could not be decoded.
    """

    def __init__(self, container: InputContainer, name: str, kind: Kind) -> None:
        """
        Raises:
            InputError: it holds no video.
        """
        import av

        self.name, self.kind, self._container, self.skipped = name, kind, container, 0
        try:
            self._stream = probe.choose_video(container, name)
            context = self._stream.codec_context
            if kind != "file":
                context.flags |= av.codec.context.Flags.low_delay
                if context.width * context.height <= _MAX_SLICED:
                    context.thread_type = "SLICE"  # frame threads hold a frame each; above this one core is too slow
        except BaseException:
            container.close()
            raise
        # All streams: asked for one alone, PyAV would not come back from a stream whose sound goes on alone.
        self._packets = container.demux()
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.step = float(1 / rate) if rate else 1 / 25
        self.size = (context.width, context.height)
        # Raw YUV of cameras is BT.601 at every size (V4L2's default for them, and sRGB's in the UVC specification).
        self._is_601 = kind == "camera" and context.name == "rawvideo"
        codec = context.pix_fmt if context.name in ("rawvideo", "wrapped_avframe") else context.codec.canonical_name
        self.description = f"{name}, {context.width}×{context.height} {codec}"
        if rate and container.format.name not in _PICTURES:  # of pictures one after another FFmpeg takes 25 a second
            self.description += f", {float(rate):.4g} fps"

    def close(self) -> None:
        """Close it, from the thread that reads it: FFmpeg would crash."""
        self._packets = iter(())  # with the packet that the generator still holds
        self._container.close()

    def frames(self) -> Iterator[tuple[av.VideoFrame, float] | None]:
        """Frames and when their packet came (`time.monotonic`); None now and then while there is nothing new.

        Raises:
            Lost: it can't be read any more, or a camera or stream ended.
        """
        import av

        came = 0.0
        while True:
            asked = time.monotonic()
            try:
                packet = next(self._packets)
            except StopIteration:
                break
            except av.error.MemoryError:
                raise
            except (av.error.FFmpegError, OSError) as error:
                if isinstance(error, BlockingIOError):
                    # Nothing comes for most of a step; not looking then takes 3.7 % of a core, else 5.7 % (640×480).
                    time.sleep(max(_POLL_SECONDS, came + 0.75 * self.step - time.monotonic()))
                elif isinstance(error, av.error.InvalidDataError) and self.kind != "file":
                    self.skipped += 1
                    time.sleep(_POLL_SECONDS)  # a driver may say so at once and for ever
                else:
                    raise Lost(self._why_lost(error)) from None
                self._packets = self._container.demux()  # an error ends a generator
                yield None
                continue
            came = time.monotonic()
            if self.kind == "stream" and came - asked >= NETWORK_SECONDS:  # given up on, with the parser's last frame
                raise Lost(_SILENT)
            if packet.stream is not self._stream:
                yield None
                continue
            if self.kind == "camera" and packet.size:
                packet = _copy(packet)
            decoded = False
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    decoded = True
                    if self._is_601 and frame.colorspace == _UNSPECIFIED:
                        frame.colorspace = _BT601
                    yield frame, came
            except av.error.MemoryError:
                raise
            except (av.error.FFmpegError, EOFError):
                self.skipped += 1
            if not decoded:
                yield None
        if self.kind != "file":
            raise Lost(_UNPLUGGED if self.kind == "camera" else "ended")

    def _why_lost(self, error: Exception) -> str:
        import av

        if getattr(error, "errno", 0) in (errno.ENODEV, errno.ENXIO, errno.EIO):
            return _UNPLUGGED if self.kind == "camera" else "broke off"
        if isinstance(error, av.error.ExitError):
            return _SILENT
        return probe.reason(error)


def _copy(packet: Packet[Stream]) -> Packet[Stream]:
    """A packet with memory of its own.

    Of v4l2 packets, and frames that are decoded without a copy, lie in the driver's memory: it can't fill that as long
    as they are there, and when the camera is closed the memory goes and FFmpeg crashes on those that are left.
    """
    import av

    copy: Packet[Stream] = av.Packet(packet.size)
    copy.update(cast("bytes", packet))  # any buffer will do
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts, copy.duration, copy.is_keyframe = packet.pts, packet.dts, packet.duration, packet.is_keyframe
    return copy


def open_camera(camera: Camera, settings: SourceSettings) -> Input:
    """Start a camera.

    Raises:
        DeviceError: it is missing, busy or denied, or doesn't deliver what the settings ask for.
    """
    import av

    system = input_format()
    options = _camera_options(system, camera, settings)
    try:
        # Not `options`: PyAV gives those to the decoder as well, whose video_size would hide what v4l2 made of it.
        container = av.open(camera.path, format=system, container_options=options, timeout=(NETWORK_SECONDS, None))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DeviceError(f"camera {camera.name}: {_why_camera(error, camera)}") from None
    try:
        opened = Input(container, camera.name, "camera")
    except InputError as error:
        raise DeviceError(f"camera {error}") from None
    if settings.size not in (None, opened.size):  # v4l2 takes what is nearest
        opened.close()
        width, height = settings.size or (0, 0)
        raise DeviceError(f"camera {camera.name}: does not deliver {width}x{height}{_offers(camera)}")
    return opened


def open_url(url: str) -> Input:
    """Open a file, a stream, a lavfi graph, or "-": standard input.

    Raises:
        InputError: it can't be opened, doesn't answer or holds no video.
    """
    import av

    name = name_of(url)
    if url.startswith(LAVFI) and not os.path.exists(url):
        try:
            with probe.listening():
                return Input(av.open(url.removeprefix(LAVFI), format="lavfi"), name, "file")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{name}: not a filter graph that makes video: {probe.reason(error)}") from None
    scheme = scheme_of(url)
    if not scheme and url != "-":
        return Input(probe.open_input(url), name, "file")
    options = {"rtsp_transport": "tcp"} if scheme == "rtsp" else {}
    began = time.monotonic()
    try:
        file = "pipe:0" if url == "-" else url
        limits = (NETWORK_SECONDS, NETWORK_SECONDS)
        with probe.listening():
            container = av.open(file, container_options=options, timeout=limits, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        late = time.monotonic() - began >= NETWORK_SECONDS
        why = f"no answer within {NETWORK_SECONDS:g} s" if late else probe.reason(error)
        raise InputError(f"{name}: can't be opened: {why}") from None
    return Input(container, name, "stream" if scheme in _STREAMS or container.format.name in _PICTURES else "file")


def name_of(url: str) -> str:
    """What messages call it: without the password."""
    return _CREDENTIALS.sub("//", url)


def scheme_of(url: str) -> str:
    """The part before "://" in lower case; empty for a path, which may have any colon in it."""
    match = re.match(r"([a-z][a-z0-9+.-]+)://", url, re.IGNORECASE)
    return match[1].lower() if match else ""


def _camera_options(system: str, camera: Camera, settings: SourceSettings) -> dict[str, str]:
    mode = best_mode(camera, settings.size, settings.fps, settings.input_format) or best_mode(
        camera, settings.size, None, settings.input_format
    )
    size = settings.size or ((mode.width, mode.height) if mode else None)
    fps = settings.fps or (min(mode.fps, 30.0) if mode and mode.fps else 30.0 if system == "avfoundation" else None)
    name = settings.input_format or (mode.input_format if mode else None)
    # 4 is AVFMT_FLAG_NONBLOCK, which has no name: reading then never waits, so a silent camera can still be closed.
    options = {"fflags": "+4"}
    if size:
        options["video_size"] = f"{size[0]}x{size[1]}"
    if fps:
        options["framerate"] = f"{fps:.6g}"
    if system != "v4l2" and settings.input_format in COMPRESSED:  # FFmpeg takes its decoder from there, PyAV can't say
        raise DeviceError(f"input format {name}: on this system only raw formats can be asked for, as nv12 or uyvy422")
    if name:
        options["input_format" if system == "v4l2" else "pixel_format"] = name
    return options


def _why_camera(error: Exception, camera: Camera) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EBUSY:
        return "is in use by another program; close that one"
    if number in (errno.EACCES, errno.EPERM):
        if sys.platform == "linux":
            return "permission denied; add yourself to the group video (sudo usermod -aG video $USER) and log in again"
        return "permission denied; allow it in the system's privacy settings"
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "is not there (any more); plug it in"
    if number == errno.EINVAL:
        return f"does not deliver this size, rate or format{_offers(camera)}"
    return f"can't be opened: {probe.reason(error)}"


def _offers(camera: Camera) -> str:
    return f"; it offers {', '.join(camera.formats)}" if camera.modes else "; `--list-cameras` lists what it offers"
