"""Streams, events, pinned memory and graphs of a CUDA device; of the CPU the same calls, which do the work at once.

Work is put on three lanes, each a stream: "upload", "compute" and "download". The CPU's lanes serve tests alone: with
them `rtlit.backends.cuda_engine` runs as it is on the kernels that Triton's interpreter runs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Literal, Protocol

import torch
from torch import Tensor

Lane = Literal["upload", "compute", "download"]


class Mark(Protocol):
    """A point in a lane's work."""

    def elapsed_since(self, earlier: Mark) -> float:
        """Seconds between two points that have been reached."""

    def wait(self) -> None:
        """Hold the calling thread until the point is reached."""


class Streams(Protocol):
    """A device's lanes."""

    device: torch.device

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        """What is launched inside goes to a lane."""

    def mark(self, lane: Lane) -> Mark:
        """The end of what a lane was given so far."""

    def after(self, lane: Lane, mark: Mark) -> None:
        """A lane goes on when a mark of another one is reached."""

    def after_others(self, lane: Lane) -> None:
        """A lane goes on when what others, the caller among them, put on the device so far is done: on its default
        stream and on the calling thread's current one."""

    def staging(self, count: int) -> Tensor:
        """Bytes on the host that copies to and from the device can use without the CPU."""

    def buffer(self, count: int) -> Tensor:
        """Bytes on the device, zeroed; not given to anybody else before all lanes are done with them."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What repeats `work`, launches alone, with one launch on "compute". Does none of it."""


class CudaStreams:
    """`Streams` of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lanes: dict[Lane, torch.cuda.Stream] = {
            lane: torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for lane in ("upload", "compute", "download")
        }

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._lanes[lane])

    def mark(self, lane: Lane) -> Mark:
        return _CudaMark(self._lanes[lane])

    def after(self, lane: Lane, mark: Mark) -> None:
        assert isinstance(mark, _CudaMark)
        self._lanes[lane].wait_event(mark.event)

    def after_others(self, lane: Lane) -> None:
        for other in {torch.cuda.default_stream(self.device), torch.cuda.current_stream(self.device)}:
            self._lanes[lane].wait_stream(other)

    def staging(self, count: int) -> Tensor:
        with torch.cuda.device(self.device):  # another thread's current one is the first, whose memory this would take
            return torch.zeros(count, dtype=torch.uint8, pin_memory=True)

    def buffer(self, count: int) -> Tensor:
        with self.on("compute"):
            bytes_ = torch.zeros(count, dtype=torch.uint8, device=self.device)
        zeroed = self.mark("compute")
        for lane, stream in self._lanes.items():
            bytes_.record_stream(stream)
            self.after(lane, zeroed)
        return bytes_

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with self.on("compute"):
            # thread_local: decoders and encoders in other threads may call CUDA meanwhile. Not torch.cuda.graph(),
            # which waits for the device and collects garbage first.
            collects = gc.isenabled()
            gc.disable()  # what it would free, another engine's graphs say, calls CUDA in this thread
            try:
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    work()
                except BaseException:
                    with suppress(RuntimeError):  # the capture failed, as it must; why is known
                        graph.capture_end()
                    raise
                graph.capture_end()
            finally:
                if collects:
                    gc.enable()
        return graph.replay


class _CudaMark:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def elapsed_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _CudaMark)
        return float(earlier.event.elapsed_time(self.event)) / 1000

    def wait(self) -> None:
        self.event.synchronize()


class HostStreams:
    """`Streams` of the CPU: everything is done when the call returns."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def on(self, lane: Lane) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self, lane: Lane) -> Mark:
        return _HostMark()

    def after(self, lane: Lane, mark: Mark) -> None:
        pass

    def after_others(self, lane: Lane) -> None:
        pass

    def staging(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def buffer(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.uint8)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


class _HostMark:
    def __init__(self) -> None:
        self.seconds = time.perf_counter()

    def elapsed_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _HostMark)
        return self.seconds - earlier.seconds

    def wait(self) -> None:
        pass


def streams_of(device: torch.device) -> Streams:
    """The lanes of a device."""
    return CudaStreams(device) if device.type == "cuda" else HostStreams()
