"""Capture and enhance in threads of their own; the newest frame wins."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from rtlit.avframe import color_of, new_like, pixel_format_of, planes_of, quarter_turns_of
from rtlit.enhancer import Enhancer
from rtlit.errors import InputError, RtlitError
from rtlit.settings import EnhanceSettings

if TYPE_CHECKING:
    import av

    from rtlit.live.source import Captured, LiveSource

T = TypeVar("T")
_RECENT = 5.0  # seconds that rates and latencies are taken over
_LIVE = "yuv420p"
_MATRIX_TAGS = {"bt709": 1, "bt601": 6, "bt2020": 9}  # ITU-T H.273 table 4
_LIMITED, _FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG


@dataclass(frozen=True)
class LiveFrame:
    """A frame before and after, for viewers and sinks, which may only read.

    Attributes:
        before, after: upright, yuv420p of 8 bits and the same size, with matrix and range tagged.
        captured: when it was taken, in seconds of `time.monotonic`.
        enhanced: when `after` was done.
        number: 1, 2, … of what came out.
    """

    before: av.VideoFrame
    after: av.VideoFrame
    captured: float
    enhanced: float
    number: int


@dataclass(frozen=True)
class LiveStats:
    """Figures of the last five seconds, and counts since the start.

    Attributes:
        captured_fps, shown_fps: frames a second from the source, and different ones that viewers showed.
        captured, dropped, shown: frames; a dropped one was captured but a newer one was there when its turn came.
        latency_ms, latency_p95_ms: from capture to a viewer's `shown`, median and 95 %; NaN before the first.
        enhance_ms: time of the enhancement, conversion of the camera's format included; NaN before the first.
        width, height: of the frames; 0 before the first.
        backend: what computes. source: what is captured. state: of the source.
    """

    captured_fps: float
    shown_fps: float
    captured: int
    dropped: int
    shown: int
    latency_ms: float
    latency_p95_ms: float
    enhance_ms: float
    width: int
    height: int
    backend: str
    source: str
    state: str


class Sink(Protocol):
    """What takes every enhanced frame."""

    def send(self, frame: LiveFrame) -> None:
        """Take a frame and return at once: this runs between two frames."""


class Latest(Generic[T]):
    """The newest of what is put, numbered 1, 2, …; any number of threads may wait for the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self.number = 0
        self.closed = False

    def put(self, item: T) -> None:
        with self._changed:
            self._item, self.number = item, self.number + 1
            self._changed.notify_all()

    def get(self, after: int, timeout: float) -> tuple[T, int] | None:
        """The newest and its number, if that is above `after`; waits up to `timeout` seconds for it, and then None."""
        with self._changed:
            self._changed.wait_for(lambda: self.number > after or self.closed, timeout)
            return (self._item, self.number) if self.number > after and self._item is not None else None

    def close(self) -> None:
        """Wake who waits; what was put last may still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class LivePipeline:
    """A source, enhanced as it comes.

    >>> pipeline = LivePipeline(LiveSource(SourceSettings()), EnhanceSettings())
    >>> pipeline.start()
    >>> frame = pipeline.wait(after=0)       # …show it
    >>> pipeline.shown(frame)
    >>> pipeline.stop()

    Attributes:
        ended: nothing more will come.
        error: what ended it, if not the source's end or `stop`.
    """

    def __init__(self, source: LiveSource, settings: EnhanceSettings, *, max_height: int | None = None) -> None:
        """`max_height`: larger frames are reduced to this many lines before they are enhanced.

        Raises:
            As `Enhancer`.
        """
        self.source, self._max_height = source, max_height
        self._notice, self._tell = "", source.on_status
        source.on_status = self._notify
        self.error: Exception | None = None
        self._enhancer = Enhancer(**vars(settings))
        self._captured: Latest[Captured] = Latest()
        self._enhanced: Latest[LiveFrame] = Latest()
        self._sinks: tuple[Sink, ...] = ()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._shown: deque[tuple[float, int, float]] = deque(maxlen=2000)  # when, number, latency
        self._enhance_seconds: deque[float] = deque(maxlen=60)
        self._dropped = self._shown_count = self._last_shown = 0

    @property
    def strength(self) -> float:
        """Factor on the curves, 0 to 2; may be set from any thread."""
        return self._enhancer.strength

    @strength.setter
    def strength(self, value: float) -> None:
        with self._lock:  # the enhancer's settings are replaced whole
            self._enhancer.strength = value

    @property
    def smoothing(self) -> float:
        """Time constant of the smoothing in seconds; may be set from any thread."""
        return self._enhancer.smoothing

    @smoothing.setter
    def smoothing(self, value: float) -> None:
        with self._lock:
            self._enhancer.smoothing = value

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self._enhanced.closed

    @property
    def notice(self) -> str:
        """What is the matter with the source, in a line; empty when all is well."""
        return "" if self.source.state == "live" else self._notice

    @property
    def stats(self) -> LiveStats:
        """How it goes."""
        now = time.monotonic()
        with self._lock:
            arrivals = [at for at in self._arrivals if at > now - _RECENT]
            shown = [each for each in self._shown if each[0] > now - _RECENT]
            spent = list(self._enhance_seconds)
        latencies = sorted(1000 * latency for _, _, latency in shown)
        newest = self._enhanced.get(0, 0)
        frame = newest[0].after if newest else None
        return LiveStats(
            captured_fps=_rate(arrivals),
            shown_fps=_rate(sorted({number: at for at, number, _ in shown}.values())),
            captured=self._captured.number,
            dropped=self._dropped,
            shown=self._shown_count,
            latency_ms=statistics.median(latencies) if latencies else math.nan,
            latency_p95_ms=latencies[int(0.95 * (len(latencies) - 1))] if latencies else math.nan,
            enhance_ms=1000 * statistics.fmean(spent) if spent else math.nan,
            width=frame.width if frame else 0,
            height=frame.height if frame else 0,
            backend=self._enhancer.backend_name,
            source=self.source.description,
            state=self.source.state,
        )

    def start(self) -> None:
        """Open the source and begin.

        Raises:
            InputError, DeviceError, UsageError: the source can't be opened.
        """
        self.source.open()
        for work in (self._capture, self._enhance):
            thread = threading.Thread(target=work, name=f"rtlit-{work.__name__.strip('_')}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End both threads and close the source. Sinks are closed by those who made them."""
        self._stopping = True
        self.source.close()
        self._captured.close()
        for thread in self._threads:
            thread.join(timeout=5)
        self._enhanced.close()

    def wait(self, after: int = 0, timeout: float = 0.5) -> LiveFrame | None:
        """The newest frame, if its number is above `after`; None if none comes within `timeout` seconds."""
        newest = self._enhanced.get(after, timeout)
        return newest[0] if newest else None

    def shown(self, frame: LiveFrame) -> None:
        """A viewer says that a frame is on the screen now."""
        now = time.monotonic()
        with self._lock:
            self._shown.append((now, frame.number, now - frame.captured))
            if frame.number > self._last_shown:
                self._last_shown = frame.number
                self._shown_count += 1

    def add_sink(self, sink: Sink) -> None:
        """Send it every frame from now on."""
        with self._lock:
            self._sinks = (*self._sinks, sink)

    def remove_sink(self, sink: Sink) -> None:
        """Send it no more frames."""
        with self._lock:
            self._sinks = tuple(each for each in self._sinks if each is not sink)

    def _capture(self) -> None:
        try:
            for captured in self.source.frames():
                with self._lock:
                    self._arrivals.append(time.monotonic())
                self._captured.put(captured)
                if self._stopping:
                    break
        except Exception as error:
            self._fail(error)
        finally:
            self._captured.close()

    def _enhance(self) -> None:
        taken = connection = 0
        try:
            while not self._stopping:
                newest = self._captured.get(taken, timeout=0.5)
                if newest is None:
                    if self._captured.closed:
                        break
                    continue
                captured, number = newest
                self._dropped += number - taken - 1
                taken = number
                if captured.connection != connection:
                    connection = captured.connection
                    self._enhancer.reset()
                began = time.monotonic()
                frame = self._frame(captured)
                with self._lock:
                    self._enhance_seconds.append(frame.enhanced - began)
                    sinks = self._sinks
                self._enhanced.put(frame)
                for sink in sinks:
                    sink.send(frame)
        except Exception as error:
            self._fail(error)
        finally:
            self._enhanced.close()
            with suppress(RtlitError):
                self.source.close()

    def _frame(self, captured: Captured) -> LiveFrame:
        before = as_live(captured.frame, self._max_height)
        after = new_like(before)
        self._enhancer.enhance_planes(
            planes_of(before), pixel_format_of(before), color_of(before), captured.captured, planes_of(after)
        )
        return LiveFrame(before, after, captured.captured, time.monotonic(), self._enhanced.number + 1)

    def _notify(self, line: str) -> None:
        self._notice = line
        self._tell(line)

    def _fail(self, error: Exception) -> None:
        if self.error is None and not self._stopping:
            self.error = error


def as_live(frame: av.VideoFrame, max_height: int | None = None) -> av.VideoFrame:
    """A captured frame as yuv420p of 8 bits, upright, tagged, of its own range: itself where it is so already.

    Raises:
        InputError: swscale can't convert its format.
    """
    color, turns = color_of(frame), quarter_turns_of(frame)
    matrix = color.matrix if color.matrix != "rgb" else "bt709"
    full_range = color.full_range and color.matrix != "rgb"
    height = min(frame.height, max_height or frame.height)
    width = max(16, round(frame.width * height / frame.height))
    tags, target_range = _MATRIX_TAGS[matrix], _FULL if full_range else _LIMITED
    if frame.format.name != _LIVE or height != frame.height:
        of_source = {} if color.matrix == "rgb" else {"src_colorspace": tags, "src_color_range": target_range}
        try:
            frame = frame.reformat(width, height, _LIVE, dst_colorspace=tags, dst_color_range=target_range, **of_source)
        except (ValueError, OSError) as error:
            raise InputError(f"a frame of pixel format {frame.format.name!r} can't become {_LIVE} ({error})") from None
    if turns:
        frame = _turned(frame, turns)
    frame.colorspace, frame.color_range = tags, target_range
    return frame


def _turned(frame: av.VideoFrame, turns: int) -> av.VideoFrame:
    import av

    size = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
    upright = av.VideoFrame(*size, frame.format.name)
    for source, target in zip(planes_of(frame), planes_of(upright), strict=True):
        target[...] = np.rot90(source, turns)
    return upright


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
