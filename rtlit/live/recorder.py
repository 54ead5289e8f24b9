"""Records what the viewer sees, with sound if asked: encoded in a thread of its own, never holding up the picture."""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit import files
from rtlit.errors import OutputError, RtlitError, UsageError
from rtlit.live.microphone import Microphone, open_microphone
from rtlit.live.recording import Recording, cut_to_whole
from rtlit.video.formats import EncoderPlan, muxer_for, plan_encoder
from rtlit.video.probe import reason
from rtlit.video.settings import VideoSettings

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

    from rtlit.live.pipeline import LiveFrame

_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
# CPU time a frame of libx264, bits a second (30 fps, crf 20, a Xeon): ultrafast 4.0 ms, 6.8 M at 720p, 8.7 ms, 11 M at
# 1080p; veryfast 9.2 ms, 3.4 M and 20 ms, 5.1 M, which leave two cores no room for the enhancement at 1080p.
_LIVE = VideoSettings(codec="libx264", preset="ultrafast", crf=20)
_WAITING, _WAITING_BYTES = 60, 64 << 20  # two seconds: a start of the encoder, a slow disk
_SOUNDS_WAITING = 2000  # five seconds of PulseAudio's shortest frames


@dataclass(frozen=True)
class RecordReport:
    """What was recorded.

    Attributes:
        frames: in all files. dropped: frames that the encoder had no time for.
        seconds: shown by all files together.
        path: the first file; `paths`: all of them, none if there was no frame.
        error: why it ended before it was closed; empty if it didn't.
    """

    frames: int
    dropped: int
    seconds: float
    path: Path
    paths: tuple[Path, ...]
    error: str = ""


class Recorder:
    """A sink that writes enhanced frames to H.264 (or another codec), each shown when it was captured.

    >>> recorder = Recorder(Path("talk.mp4"), microphone="default")
    >>> pipeline.add_sink(recorder)
    >>> …
    >>> pipeline.remove_sink(recorder)
    >>> report = recorder.close()

    A file grows as `NAME.partial` beside its name, readable as far as it goes after a crash (an MP4 is in fragments
    till then), and gets its name when it is whole. When the size of the frames changes, another one begins: NAME-2.

    Attributes:
        path: as given, or what a symbolic link given points to.
        ready: set once it takes frames, which is when the microphone is open.
    """

    def __init__(
        self,
        path: Path,
        *,
        microphone: str | None = None,
        overwrite: bool = False,
        codec: str | None = None,
        on_warning: Callable[[str], None] = lambda line: None,
        open_microphone: Callable[[str], InputContainer] = open_microphone,
    ) -> None:
        """
        Args:
            path: .mp4, .m4v, .mov or .mkv.
            microphone: record its sound too: "default", or a name as `rtlit.live.microphone` takes it.
            overwrite: replace an existing file.
            codec: FFmpeg's encoder; None is libx264.
            on_warning: told, in one line each and from another thread, what goes wrong.

        Raises:
            OutputError: the file exists, or its directory is missing or not writable.
            UsageError: another suffix, or no such encoder.
        """
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{path}: can't be recorded to; name a file in {', '.join(_SUFFIXES)}")
        files.check_target(io.BytesIO(), path, overwrite)
        if files.is_stream(path):
            raise OutputError(f"{path}: is a pipe or device; a recording needs a file, to be readable after a crash")
        self.path, self._overwrite, self._warn = files.place(path), overwrite, on_warning
        self._muxer = muxer_for(path, VideoSettings(), "")
        self._settings = VideoSettings(codec=codec) if codec else _LIVE
        self._plan((64, 64))
        self._name, self._open_microphone = microphone, open_microphone
        self._microphone: Microphone | None = None
        self._frames: deque[tuple[av.VideoFrame, float]] = deque()
        self._sounds: deque[tuple[av.AudioFrame, float]] = deque(maxlen=_SOUNDS_WAITING)
        self._changed = threading.Condition()
        self.ready, self._closing = threading.Event(), False
        if microphone is None:
            self.ready.set()
        self._file: Recording | None = None
        self._paths: list[Path] = []
        self._written = self._dropped = 0
        self._seconds, self._error = 0.0, ""
        self._thread = threading.Thread(target=self._run, name="rtlit-record", daemon=True)
        self._thread.start()

    @property
    def recording(self) -> bool:
        """It takes frames: it was neither closed nor stopped by an error."""
        return not self._closing and not self._error

    @property
    def seconds(self) -> float:
        """Recorded so far."""
        return self._seconds + (self._file.seconds if self._file else 0.0)

    def send(self, frame: LiveFrame) -> None:
        """Take a frame, or drop it where the encoder is behind."""
        with self._changed:
            if not self.ready.is_set() or not self.recording:
                return
            size = sum(plane.buffer_size for plane in frame.after.planes)
            if len(self._frames) >= max(3, min(_WAITING, _WAITING_BYTES // size)):
                self._dropped += 1
                return
            self._frames.append((frame.after, frame.captured))
            self._changed.notify()

    def close(self) -> RecordReport:
        """Write what waits, and give the file its name; again, it only reports. It never raises: see `error`."""
        with self._changed:
            first, self._closing = not self._closing, True
            self._changed.notify()
        self._thread.join()
        paths = tuple(self._paths)
        if first and not paths and not self._error:
            self._warn(f"{self.path}: nothing was recorded, for no frame came")
        elif first and self._dropped:
            self._warn(f"{self.path}: {self._dropped} frames were dropped, for the encoder couldn't keep up")
        path = paths[0] if paths else self.path
        return RecordReport(self._written, self._dropped, round(self._seconds, 6), path, paths, self._error)

    def _run(self) -> None:
        import av

        try:
            self._listen()
            self.ready.set()
            while (item := self._next()) is not None:
                self._take(*item)
            self._finish()
        except (RtlitError, av.error.FFmpegError, OSError, ValueError) as error:
            self._salvage(error)
        finally:
            self._frames.clear()
            if self._microphone:
                self._microphone.close()

    def _listen(self) -> None:
        if self._name is None:
            return
        try:
            container = self._open_microphone(self._name)
            self._microphone = Microphone(container, self._hear, lambda why: self._warn(f"no more sound: {why}"))
        except RtlitError as error:
            self._warn(f"{error}; recording the picture alone")

    def _hear(self, sound: av.AudioFrame, at: float) -> None:
        with self._changed:
            if not self._closing:
                self._sounds.append((sound, at))
                self._changed.notify()

    def _next(self) -> tuple[av.VideoFrame | av.AudioFrame, float] | None:
        """What to write next: sound, which takes little time and must not be lost, once there was a picture."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or (self._file and self._sounds) or self._closing)
            if self._file and self._sounds:
                return self._sounds.popleft()
            return self._frames.popleft() if self._frames else None

    def _take(self, frame: av.VideoFrame | av.AudioFrame, at: float) -> None:
        import av

        if isinstance(frame, av.AudioFrame):
            assert self._file is not None
            self._file.add_sound(frame, at)
            return
        size = (frame.width, frame.height)
        if self._file is not None and self._file.size != size:
            self._finish()
        if self._file is None:
            self._file = Recording(
                _free(self._part(), False), self._muxer, self._plan(size), frame, at, self._microphone
            )
        if not self._file.add_picture(frame, at):
            with self._changed:
                self._dropped += 1

    def _plan(self, size: tuple[int, int]) -> EncoderPlan:
        import av

        return plan_encoder("h264", av.VideoFormat("yuv420p", *size), size, self._muxer, self._settings)

    def _part(self) -> Path:
        return self.path.with_name(files.fitting(self.path.name, ".partial"))

    def _finish(self) -> None:
        if self._file is not None:
            self._file.finish()
            self._keep(self._file)

    def _keep(self, file: Recording) -> None:
        """Give a file its name."""
        number = len(self._paths) + 1
        wanted = self.path if number == 1 else _numbered(self.path, number)
        self._paths.append(_free(wanted, self._overwrite))
        os.replace(file.part, self._paths[-1])
        self._written, self._seconds, self._file = self._written + file.frames, self._seconds + file.seconds, None

    def _salvage(self, error: Exception) -> None:
        """Stop, and keep what can be read of the file."""
        import av

        file, kept = self._file, ""
        self._error = str(error) if isinstance(error, RtlitError) else f"{self.path}: can't be written: {reason(error)}"
        if file is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                file.container.close()
            with suppress(av.error.FFmpegError, OSError, ValueError):
                file.frames, file.seconds = cut_to_whole(file.part, self._muxer)
                if file.frames:
                    kept = f"; its first {file.seconds:.1f} s are kept"
                    self._keep(file)
                else:
                    file.part.unlink()
        self._warn(f"recording stopped: {self._error}{kept}")


def _free(path: Path, overwrite: bool) -> Path:
    """The path, or the first of NAME-2, NAME-3 … that isn't there."""
    number, free = 1, path
    while free.exists() and not overwrite:
        number += 1
        free = _numbered(path, number)
    return free


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(files.fitting(path.stem, f"-{number}{path.suffix}"))
