"""What the window writes, by a thread of its own: files may take their time, the picture may not."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtlit.errors import RtlitError

if TYPE_CHECKING:
    from rtlit.live.pipeline import LiveFrame, LivePipeline
    from rtlit.live.recorder import Recorder


class LiveFiles:
    """Snapshots and recordings, in the order they are asked for.

    Attributes:
        recording_since: when the recording began, in seconds of `time.monotonic`; None while there is none.
    """

    def __init__(
        self,
        pipeline: LivePipeline,
        snapshots: Path,
        record: Callable[[], Recorder],
        tell: Callable[[str], None],
        on_done: Callable[[], None],
    ) -> None:
        """`tell` gets a line for each file, with its whole path; `on_done` is called when `results` has something new.

        Both are called by the thread.
        """
        self._pipeline, self._snapshots, self._record, self._tell = pipeline, snapshots, record, tell
        self._on_done = on_done
        self._worker = ThreadPoolExecutor(1, "rtlit-files")
        self._jobs: list[Future[str]] = []
        self._recorder: Recorder | None = None
        self._wanted = False
        self.recording_since: float | None = None

    def snapshot(self, frame: LiveFrame) -> None:
        """Save a picture."""
        self._do(self._save, frame)

    def toggle_recording(self) -> None:
        """Begin or end a recording."""
        self._wanted = not self._wanted
        self._do(self._begin if self._wanted else self._end)

    def results(self) -> list[str | RtlitError]:
        """What was done or went wrong since the last call; a recording that broke off is ended."""
        if self._wanted and self._recorder and not self._recorder.recording:
            self.toggle_recording()
        done = [job for job in self._jobs if job.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        return [_outcome(job) for job in done]

    def close(self) -> None:
        """Finish everything, the recording too.

        Raises:
            RtlitError: something can't be.
        """
        if self._wanted:
            self.toggle_recording()
        self._worker.shutdown()
        for job in self._jobs:
            job.result()

    def _do(self, job: Callable[..., str], *arguments: Any) -> None:
        future = self._worker.submit(job, *arguments)
        self._jobs.append(future)
        future.add_done_callback(lambda _: self._on_done())

    def _save(self, frame: LiveFrame) -> str:
        from rtlit.live.snapshot import save_snapshot

        path = save_snapshot(frame, self._snapshots)
        self._tell(f"wrote {path}")
        return f"wrote {path.name}"

    def _begin(self) -> str:
        try:
            recorder = self._record()
        except RtlitError:
            self._wanted = False
            raise
        self._recorder, self.recording_since = recorder, time.monotonic()
        self._pipeline.add_sink(recorder)
        return f"recording to {recorder.path.name}"

    def _end(self) -> str:
        recorder, self._recorder, self.recording_since = self._recorder, None, None
        if recorder is None:
            return ""
        self._pipeline.remove_sink(recorder)
        report = recorder.close()
        for path in report.paths:
            self._tell(f"wrote {path}")
        if report.error:
            raise RtlitError(report.error)
        names = ", ".join(path.name for path in report.paths)
        return f"wrote {names} ({report.seconds:.0f} s)" if names else "nothing was recorded: no picture came"


def _outcome(job: Future[str]) -> str | RtlitError:
    with suppress(RtlitError):
        return job.result()
    error = job.exception()
    assert isinstance(error, RtlitError)
    return error
