"""Hands the enhanced picture to meetings as a camera: v4l2loopback on Linux, OBS on macOS and Windows."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rtlit.avframe import planes_of
from rtlit.errors import DeviceError, RtlitError, UsageError

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from rtlit.live.pipeline import LiveFrame

# What apps take a camera's I420 for: v4l2loopback calls it sRGB, from which V4L2 derives BT.601 and limited range.
_BT601_TAGS, _LIMITED = (5, 6), 1  # bt470bg and smpte170m: one matrix
_BT601_OF_SWSCALE = 5  # with smpte170m's 6 it leaves the matrix as it is
_BLACK = (16, 128, 128)
_REPEAT_SECONDS = 0.5  # apps give up a camera that is silent for longer
_HELP = {
    "linux": "load v4l2loopback (sudo modprobe v4l2loopback exclusive_caps=1 card_label=rtlit)",
    "darwin": "install OBS and start its virtual camera once",
    "win32": "install OBS, which brings one",
}


class VirtualCamera:
    """A sink that shows frames to other programs, the newest at most `fps` times a second.

    Frames of another size are fitted into the camera's, with black bars where the shape differs.

    Attributes:
        device: the camera that is used, for people. size: (width, height).
        sent: frames so far, repeated ones apart.
        error: why it ended; empty if it didn't.
    """

    def __init__(
        self,
        device: str | None,
        size: tuple[int, int],
        fps: float,
        *,
        on_warning: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            device: "/dev/video2" or a camera's name; None takes the first.
            size: (width, height); odd ones are reduced by one, as I420 needs.
            fps: the rate told to other programs, and the most.
            on_warning: told, in one line and from another thread, when the camera fails.

        Raises:
            RtlitError: pyvirtualcam isn't installed. DeviceError: there is no such virtual camera, or it is busy.
            UsageError: no such size or rate.
        """
        try:
            import pyvirtualcam
        except ModuleNotFoundError as error:
            what = "pip install 'rtlit[virtual-camera]'"
            raise RtlitError(f"the virtual camera needs {error.name}: {what}") from None
        width, height = self.size = (size[0] // 2 * 2, size[1] // 2 * 2)
        if min(self.size) < 2 or not 0 < fps <= 1000:
            raise UsageError(f"a virtual camera of {size[0]}×{size[1]} at {fps:g} fps can't be; give real ones")
        try:
            self._camera: Any = pyvirtualcam.Camera(
                width, height, fps, fmt=pyvirtualcam.PixelFormat.I420, device=device
            )
        except RuntimeError as error:
            why = str(error).splitlines()[0].partition(": ")[2] if str(error) else "nothing more is known"
            name = f"virtual camera {device}" if device else "no virtual camera"
            raise DeviceError(f"{name}: {_help()}; pyvirtualcam says: {why}") from None
        self.device, self.sent, self.error = str(self._camera.device), 0, ""
        self._interval, self._warn = 1 / fps, on_warning
        self._picture = np.empty(width * height * 3 // 2, np.uint8)
        self._newest: av.VideoFrame | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="rtlit-virtual-camera", daemon=True)
        self._thread.start()

    def send(self, frame: LiveFrame) -> None:
        """Take a frame; one that was not shown yet is forgotten."""
        with self._changed:
            self._newest = frame.after
            self._changed.notify()

    def close(self) -> None:
        """Give the camera back; again, it does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            due = 0.0
            while (frame := self._next(due)) is not None or self._waits_for_more():
                due = time.monotonic() + 0.9 * self._interval  # some slack: a camera's frames jitter
                if frame is not None:
                    fill(self._picture, frame, self.size)
                    self.sent += 1
                if self.sent:
                    self._camera.send(self._picture)
        except Exception as error:  # from pyvirtualcam's back ends, which raise what they like
            self.error = f"virtual camera {self.device}: gave up ({error})"
            self._warn(self.error)
        finally:
            self._camera.close()

    def _next(self, due: float) -> av.VideoFrame | None:
        """The newest frame, not before `due`; None if none comes for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, due - time.monotonic())
            self._changed.wait_for(lambda: self._closing or self._newest is not None, _REPEAT_SECONDS)
            frame, self._newest = self._newest, None
            return None if self._closing else frame

    def _waits_for_more(self) -> bool:
        return not self._closing


def fill(picture: NDArray[np.uint8], frame: av.VideoFrame, size: tuple[int, int]) -> None:
    """Lay a frame into `picture`, I420 [width * height * 3 / 2] of BT.601 and limited range, centred and whole."""
    width, height = size
    scale = min(width / frame.width, height / frame.height)
    # Whole chroma samples; what is off by a pixel is stretched.
    inner = (
        width if frame.width * scale > width - 2 else round(frame.width * scale / 2) * 2,
        height if frame.height * scale > height - 2 else round(frame.height * scale / 2) * 2,
    )
    inner = (max(2, inner[0]), max(2, inner[1]))
    as_is = int(frame.colorspace) in _BT601_TAGS and int(frame.color_range) == _LIMITED
    if not as_is or inner != (frame.width, frame.height):
        frame = frame.reformat(
            *inner,
            "yuv420p",
            src_colorspace=int(frame.colorspace),
            src_color_range=int(frame.color_range),
            dst_colorspace=_BT601_OF_SWSCALE,
            dst_color_range=_LIMITED,
        )
    left, top, at = (width - inner[0]) // 4 * 2, (height - inner[1]) // 4 * 2, 0
    for index, source in enumerate(planes_of(frame)):
        shift = index > 0
        rows, columns = height >> shift, width >> shift
        target = picture[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        if inner != size:
            target[...] = _BLACK[index]
        y, x = top >> shift, left >> shift
        target[y : y + source.shape[0], x : x + source.shape[1]] = source


def _help() -> str:
    return _HELP.get(sys.platform, "see pyvirtualcam's documentation")
