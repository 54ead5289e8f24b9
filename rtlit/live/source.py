"""Frames as they come: from a camera, a stream or, at its own pace, a file; what breaks off is opened anew."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from rtlit.errors import InputError, RtlitError, UsageError
from rtlit.live.cameras import Camera, CameraMissing, find_again, find_camera, list_cameras
from rtlit.live.inputs import LAVFI, Input, Lost, name_of, open_camera, open_url

if TYPE_CHECKING:
    import av

State: TypeAlias = Literal["closed", "live", "stalled", "reconnecting", "ended"]
OPEN_SECONDS = 15.0  # for a camera's first frame, or a writer at the other end of a pipe
STALL_SECONDS = 2.0
SILENCE_SECONDS = 10.0  # a camera or stream that gives no picture for so long is opened anew
RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 0.4
# Of a file, seconds: a frame due later than this, or earlier, just follows the last: timestamps jump, decoders lag.
_MAX_WAIT, _MAX_LATE = 10.0, 0.5
_MAX_STEP = 60.0  # that a frame of a slide show may say to stay
_AHEAD = 4  # frames of a file that are decoded before they are due
_MAX_SIDE = 16384


@dataclass(frozen=True)
class SourceSettings:
    """What to capture.

    Attributes:
        camera: number, path, name or part of a name; None without `url`: the first camera.
        url: instead of a camera anything that FFmpeg reads: a file, rtsp://…, or a filter graph after "lavfi:".
        size: (width, height) asked of the camera, in pixels.
        fps: frames a second asked of the camera.
        input_format: asked of the camera, in FFmpeg's words: mjpeg, yuyv422, nv12, h264, …
        loop: a file begins again at its end.
    """

    camera: str | None = None
    url: str | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    input_format: str | None = None
    loop: bool = False

    def __post_init__(self) -> None:
        if self.camera is not None and self.url is not None:
            raise UsageError("--camera and --source: give one of them")
        if self.url is not None and (self.size or self.fps or self.input_format):
            raise UsageError("size, rate and input format are asked of a camera; a source has its own")
        if self.url is None and self.loop:
            raise UsageError("loop: a camera has no end; loop is for a --source that is a file")
        if (self.url or "").startswith("/dev/video"):
            raise UsageError(f"--source {self.url} is a camera: --camera {self.url}")
        if self.camera == "" or self.url in ("", LAVFI):
            raise UsageError("the name of the camera or source is empty")
        if self.size is not None and not all(0 < side <= _MAX_SIDE for side in self.size):
            raise UsageError(f"size = {self.size}: width and height are 1 to {_MAX_SIDE} pixels")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UsageError(f"fps = {self.fps}: must be above 0 and at most 1000")
        if self.input_format is not None and not self.input_format.replace("_", "").isalnum():
            raise UsageError(f"input format {self.input_format!r} is not a name such as mjpeg or yuyv422")


@dataclass(frozen=True)
class Captured:
    """A frame as decoded, of any pixel format; its size may differ from the last one's.

    Attributes:
        captured: when it was taken or, of a stream, arrived or, of a file, is due; seconds of `time.monotonic`,
            never less than the frame's before.
        connection: 1, 2, …: goes up when the source was opened anew or began again.
    """

    frame: av.VideoFrame
    captured: float
    connection: int


def _nobody(line: str) -> None:
    pass


class LiveSource:
    """A camera, stream or file that is read by a thread of its own.

    A camera or stream that breaks off is waited for as long as it takes.

    Attributes:
        on_status: takes a line for people when something happens to the source; may come from any thread.
        description: "Integrated Camera, 1280×720 mjpeg, 30 fps".
        state: stalled: nothing for 2 seconds; reconnecting: gone, tried again every second.
        missed: frames of a camera or stream for which nobody came before the next.
        skipped: packets that could not be decoded.
    """

    def __init__(self, settings: SourceSettings, on_status: Callable[[str], None] = _nobody) -> None:
        self.settings, self.on_status = settings, on_status
        self.description = name_of(settings.url) if settings.url else f"camera {settings.camera or ''}".strip()
        self.state: State = "closed"
        self.missed = self.skipped = 0
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Captured, Input]] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._opened = self._over = False
        self._failure: BaseException | None = None
        self._camera: Camera | None = None
        self._said = ""
        self._last: tuple[float, float, int] | None = None  # when it was due, the step after it, its connection
        self._anchor = 0.0  # a file's timestamps plus this are when its frames are due

    def open(self) -> None:
        """Open it; does nothing if it is.

        Raises:
            InputError, DeviceError, UsageError: it can't be opened; the line says why.
        """
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rtlit-source", daemon=True)
                self._thread.start()
            done = self._changed.wait_for(lambda: self._opened or self._over or self._closing.is_set(), OPEN_SECONDS)
        if self._failure is not None and not self._opened:
            raise self._failure
        if not done:
            self.close()
            raise InputError(f"{self.description}: nothing comes from it within {OPEN_SECONDS:g} s")

    def frames(self) -> Iterator[Captured]:
        """Frames, each when it is due; of a camera or stream always the newest.

        Ends at a file's end, or within half a second after `close`.

        Raises:
            As `open`; InputError: a file turned out to hold nothing that can be decoded, or can't be read on.
        """
        self.open()
        while (item := self._take()) is not None:
            captured, source = item
            if source.kind == "file":
                captured = self._paced(captured, source)
                if self._closing.wait(max(0.0, captured.captured - time.monotonic())):
                    return
            yield captured
        if self._failure is not None and not self._closing.is_set():
            raise self._failure

    def close(self) -> None:
        """End it, from any thread. A thread that a driver or file holds up is left to itself."""
        self._closing.set()
        with self._changed:
            if self.state != "ended":
                self.state = "closed"
            self._changed.notify_all()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_CLOSE_SECONDS)

    def _take(self) -> tuple[Captured, Input] | None:
        waited_since = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over or self._closing.is_set(), 0.1)
                if self._closing.is_set():
                    return None
                if self._waiting:
                    item = self._waiting.popleft()
                    self._changed.notify_all()
                    return item
                if self._over:
                    self.state = "ended"
                    return None
                stalled = self.state == "live" and time.monotonic() - waited_since > STALL_SECONDS
                if stalled:
                    self.state = "stalled"
            if stalled:
                self._say(f"{self._name}: nothing has come for {STALL_SECONDS:g} s")

    def _paced(self, captured: Captured, source: Input) -> Captured:
        """The same with when it is due."""
        frame, now = captured.frame, time.monotonic()
        due = follows = self._last[0] + min(self._last[1], _MAX_STEP) if self._last else now
        if frame.pts is not None and frame.time_base is not None:
            stamp = float(frame.pts * frame.time_base)
            if self._last is None or captured.connection != self._last[2]:
                self._anchor = follows - stamp
            due = self._anchor + stamp
        if not -_MAX_LATE <= due - now <= _MAX_WAIT:
            moved = max(now, follows)
            self._anchor, due = self._anchor + moved - due, moved
        due = max(due, self._last[0]) if self._last else due
        step = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else source.step
        self._last = due, step, captured.connection
        return Captured(frame, due, captured.connection)

    # From here on: the source's thread.

    def _run(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # raised by `open` or `frames`
            self._failure = error
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _read_all(self) -> None:
        source: Input | None = self._open_input()
        connection = 1
        with self._changed:
            self._opened = True
            if not self._closing.is_set():
                self.state = "live"
            self._changed.notify_all()
        while source is not None and not self._closing.is_set():
            try:
                self._read(source, connection)
                again = self.settings.loop and not self._closing.is_set()
                source = self._open_input() if again else None
            except Lost as lost:
                source = self._reconnect(str(lost))
            connection += 1
        if source is not None:
            source.close()

    def _open_input(self) -> Input:
        if self.settings.url is not None:
            source = open_url(self.settings.url)
        else:
            cameras, wanted = list_cameras(), self.settings.camera
            if self._camera is None or os.sep in (wanted or ""):
                self._camera = find_camera(wanted, cameras)
            else:
                self._camera = find_again(self._camera, cameras)
            source = open_camera(self._camera, self.settings)
        self.description = source.description
        return source

    def _read(self, source: Input, connection: int) -> None:
        """Read to the end, or until `close`.

        Raises:
            Lost: a camera or stream broke off, or gives nothing. InputError: nothing in a file can be decoded.
        """
        pictures, last, newest = 0, time.monotonic(), 0.0
        skipped_before, skipped_then = self.skipped, 0
        try:
            for item in source.frames():
                self.skipped = skipped_before + source.skipped
                if self._closing.is_set():
                    return
                if item is None:
                    if time.monotonic() - last > SILENCE_SECONDS:
                        damaged = " but damaged data" if source.skipped > skipped_then else ""
                        raise Lost(f"nothing{damaged} for {SILENCE_SECONDS:g} s")
                    continue
                frame, came = item
                newest = max(newest, _taken(frame, came) if source.kind == "camera" else came)
                self._put(Captured(frame, newest, connection), source)
                pictures, last, skipped_then = pictures + 1, time.monotonic(), source.skipped
            if not pictures:
                raise Lost(
                    f"none of its {source.skipped} packets can be decoded"
                    if source.skipped
                    else "holds no video frames"
                )
        except Lost as lost:
            if source.kind != "file":
                raise
            if not pictures:
                raise InputError(f"{source.name}: {lost}") from None
            self._say(f"{source.name}: breaks off early: {lost}")
        finally:
            source.close()

    def _put(self, captured: Captured, source: Input) -> None:
        with self._changed:
            if source.kind == "file":
                self._changed.wait_for(lambda: len(self._waiting) < _AHEAD or self._closing.is_set())
            else:
                self.missed += len(self._waiting)
                self._waiting.clear()
            self._waiting.append((captured, source))
            back = self.state
            if back in ("stalled", "reconnecting"):
                self.state = "live"
            self._changed.notify_all()
        if back != self.state:
            self._say(f"{self._name}: {'connected again' if back == 'reconnecting' else 'goes on'}")

    def _reconnect(self, why: str) -> Input | None:
        with self._changed:
            if self._closing.is_set():
                return None
            self.state = "reconnecting"
        self._say(f"{self._name}: {why}; " + ("waiting for it" if self._camera else "trying again every second"))
        while not self._closing.wait(RETRY_SECONDS):
            try:
                return self._open_input()
            except CameraMissing:
                pass
            except RtlitError as error:
                self._say(str(error))
        return None

    @property
    def _name(self) -> str:
        return self._camera.name if self._camera else name_of(self.settings.url or "camera")

    def _say(self, line: str) -> None:
        if line != self._said and not self._closing.is_set():
            self._said = line
            self.on_status(line)


def _taken(frame: av.VideoFrame, came: float) -> float:
    """When a camera's frame was taken: by its driver's clock where that is ours, else when it came."""
    if frame.pts is not None and frame.time_base is not None:
        taken = float(frame.pts * frame.time_base)
        if 0 <= came - taken < 1:
            return taken
    return came
