"""Which cameras there are, what they offer, and which one is meant."""

from __future__ import annotations

import math
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtlit.errors import DeviceError, UsageError

_DEV = Path("/dev")
_SYS = Path("/sys/class/video4linux")
# linux/videodev2.h: requests, capabilities, and the formats that FFmpeg's v4l2 takes too.
_QUERYCAP, _ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_CAPTURE, _HAS_DEVICE_CAPS = 1, 1 << 31
_VIDEO_CAPTURE_BUFFER = 1
_DISCRETE = 1
_FORMATS = {
    "YUYV": "yuyv422",
    "UYVY": "uyvy422",
    "YVYU": "yvyu422",
    "NV12": "nv12",
    "NV21": "nv21",
    "NV16": "nv16",
    "YU12": "yuv420p",
    "422P": "yuv422p",
    "RGB3": "rgb24",
    "BGR3": "bgr24",
    "BGR4": "bgr0",
    "MJPG": "mjpeg",
    "JPEG": "mjpeg",
    "H264": "h264",
    "HEVC": "hevc",
    "VP80": "vp8",
    "GREY": "gray",
    "Y16 ": "gray16le",
}
# Of what a driver says to take in steps.
_USUAL_SIZES = ((640, 480), (1280, 720), (1920, 1080), (3840, 2160))
# How late a picture is: JPEG costs a decode, H.264 and the like what the camera's encoder holds back as well.
COMPRESSED = {"mjpeg": 1, "h264": 2, "hevc": 2, "vp8": 2}
_SMOOTH_FPS = 24
_GOOD_AREA = 1280 * 720


class CameraMissing(DeviceError):
    """The camera isn't there (now)."""


@dataclass(frozen=True)
class Mode:
    """What a camera can deliver: `fps` is the highest of this format and size, 0 where the driver doesn't say."""

    input_format: str
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.input_format} {self.width}x{self.height}" + (f" {self.fps:.4g}" if self.fps else "")


@dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
        number: of /dev/videoN on Linux, else its place in the system's list.
        name: as the driver or system calls it; several may have the same.
        path: what FFmpeg opens.
        modes: as far as the system says; empty for a camera that can't be opened.
        bus: where it is plugged in, on Linux.
    """

    number: int
    name: str
    path: str
    modes: tuple[Mode, ...] = ()
    bus: str = ""

    @property
    def formats(self) -> tuple[str, ...]:
        """The modes as text, "mjpeg 1280x720 30"."""
        return tuple(str(mode) for mode in self.modes)

    def __str__(self) -> str:
        return f"{self.number} ({self.name}, {self.path})"


def input_format() -> str:
    """FFmpeg's name of this system's cameras."""
    return {"darwin": "avfoundation", "win32": "dshow"}.get(sys.platform, "v4l2")


def list_cameras() -> list[Camera]:
    """All cameras, in the system's order; those that can't be opened (denied) as well."""
    system = input_format()
    return _list_v4l2() if system == "v4l2" else _list_by_ffmpeg(system)


def find_camera(wanted: str | None, cameras: Sequence[Camera]) -> Camera:
    """The camera meant by a number, a path, a name or a part of one; the first for None.

    Raises:
        CameraMissing: there is none such.
        UsageError: several could be meant.
    """
    if wanted is not None and os.sep in wanted:
        return _by_path(wanted, cameras)
    if not cameras:
        raise CameraMissing("no camera found: plug one in, or try it with a video, --source FILE")
    if wanted is None:
        return cameras[0]
    tests = (
        lambda camera: wanted.strip() == str(camera.number),
        lambda camera: wanted.casefold() == camera.name.casefold(),
        lambda camera: wanted.casefold() in camera.name.casefold(),
    )
    found = next((hits for hits in ([c for c in cameras if test(c)] for test in tests) if hits), [])
    if len(found) > 1:
        raise UsageError(f"--camera {wanted}: could be {_these(found)}; give the number")
    if not found:
        raise CameraMissing(f"--camera {wanted}: no such camera; there is {_these(cameras)}")
    return found[0]


def find_again(camera: Camera, cameras: Sequence[Camera]) -> Camera:
    """The same camera after it was plugged in anew, perhaps elsewhere and under another number.

    Raises:
        CameraMissing: it isn't there.
    """
    same = [other for other in cameras if other.name == camera.name]
    if not same:
        raise CameraMissing(f"{camera.name} is not there")
    return max(same, key=lambda other: (other.bus == camera.bus, other.path == camera.path))


def best_mode(
    camera: Camera, size: tuple[int, int] | None, fps: float | None, wanted_format: str | None
) -> Mode | None:
    """What to ask of a camera: of the modes that meet the wishes a smooth one, near 1280×720, with least delay.

    None where no known mode meets them.
    """
    fits = [
        mode
        for mode in camera.modes
        if (size is None or (mode.width, mode.height) == size)
        and (wanted_format is None or mode.input_format == wanted_format)
        and (fps is None or not mode.fps or mode.fps > fps - 0.5)
    ]

    def merit(mode: Mode) -> tuple[bool, bool, float, int, float]:
        compressed = COMPRESSED.get(mode.input_format, 0)
        colored = not mode.input_format.startswith("gray")  # an infrared camera
        far = abs(math.log(mode.width * mode.height / _GOOD_AREA))
        return colored, mode.fps >= (fps or _SMOOTH_FPS) - 0.5, -far, -compressed, mode.fps

    return max(fits, key=merit, default=None)


def _these(cameras: Sequence[Camera]) -> str:
    return " or ".join(map(str, cameras))


def _by_path(wanted: str, cameras: Sequence[Camera]) -> Camera:
    real = os.path.realpath(wanted)  # links such as /dev/v4l/by-id/… name a camera for good
    for camera in cameras:
        if os.path.realpath(camera.path) == real:
            return camera
    if not os.path.exists(wanted):
        there = f"; there is {_these(cameras)}" if cameras else ""
        raise CameraMissing(f"--camera {wanted}: no such device{there}")
    number = re.search(r"\d+$", real)
    return Camera(int(number[0]) if number else 0, wanted, wanted)


def _list_by_ffmpeg(system: str) -> list[Camera]:
    import av

    with suppress(ValueError, OSError, av.error.FFmpegError):
        found = [d for d in av.enumerate_input_devices(system) if "video" in d.media_types]
        names = [device.description or device.name for device in found]
        return [
            Camera(number, name, f"video={name}" if system == "dshow" else str(number))
            for number, name in enumerate(names)
        ]
    return []


def _list_v4l2() -> list[Camera]:
    names = {path.name for folder in (_DEV, _SYS) for path in folder.glob("video*")}
    numbers = sorted(int(name[5:]) for name in names if name[5:].isdigit())
    return [camera for number in numbers if (camera := _v4l2_camera(number)) is not None]


def _v4l2_camera(number: int) -> Camera | None:
    path, system = _DEV / f"video{number}", _SYS / f"video{number}"
    name, index = _line(system / "name"), _line(system / "index")
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        # A camera has several nodes; those after the first carry metadata. The driver can't be asked.
        return Camera(number, name or path.name, str(path)) if index in ("", "0") else None
    try:
        _, card, bus, _, every, here = _ask(device, _QUERYCAP, "16s 32s 32s 3I 12x")
        if not (here if every & _HAS_DEVICE_CAPS else every) & _CAPTURE:
            return None
        modes = tuple(dict.fromkeys(_modes(device)))
        return Camera(number, _text(card) or name or path.name, str(path), modes, _text(bus))
    except OSError:  # not a camera, or unplugged just now
        return None
    finally:
        os.close(device)


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace").strip()


def _ask(device: int, request: int, layout: str, *given: int) -> tuple[Any, ...]:
    """An ioctl whose structure begins with the numbers given."""
    buffer = bytearray(struct.calcsize(f"={layout}"))
    struct.pack_into(f"={len(given)}I", buffer, 0, *given)
    _ioctl(device, request, buffer)
    return struct.unpack(f"={layout}", buffer)


def _ioctl(device: int, request: int, buffer: bytearray) -> None:
    import fcntl

    fcntl.ioctl(device, request, buffer, True)


def _each(device: int, request: int, layout: str, *given: int) -> Iterator[tuple[Any, ...]]:
    """The answers for index 0, 1, … until the driver has no more."""
    with suppress(OSError):
        for index in range(256):
            yield _ask(device, request, layout, index, *given)


def _modes(device: int) -> Iterator[Mode]:
    for *_, fourcc, _ in _each(device, _ENUM_FMT, "3I 32s 2I 12x", _VIDEO_CAPTURE_BUFFER):
        name = _FORMATS.get(struct.pack("=I", fourcc).decode("latin-1"))
        if name is None:
            continue
        for width, height in _sizes(device, fourcc):
            yield Mode(name, width, height, _highest_fps(device, fourcc, width, height))


def _sizes(device: int, fourcc: int) -> Iterator[tuple[int, int]]:
    for _, _, kind, *numbers in _each(device, _ENUM_FRAMESIZES, "9I 8x", fourcc):
        if kind == _DISCRETE:
            yield numbers[0], numbers[1]
        else:
            low_width, high_width, _, low_height, high_height, _ = numbers
            for width, height in _USUAL_SIZES:
                if low_width <= width <= high_width and low_height <= height <= high_height:
                    yield width, height
            return  # steps come as one answer


def _highest_fps(device: int, fourcc: int, width: int, height: int) -> float:
    best = 0.0
    for *_, numerator, denominator in _each(device, _ENUM_FRAMEINTERVALS, "7I 24x", fourcc, width, height):
        best = max(best, denominator / numerator if numerator else 0.0)
    return best
