"""Times on a GPU by events; on a CPU, where the benchmark is rehearsed, by the clock.

Three ways, as three things are asked for:

rotated   a kernel by itself: launches on as many sets of buffers as outgrow the L2 cache twice, captured in one CUDA
          graph, so that neither Python nor the cache is measured; the time of a replay over the number of launches
repeated  whatever a user calls in a loop: events between consecutive calls, so that a CPU that can't keep up shows
cold      one call with the L2 cache full of something else
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

Call = Callable[[], object]
_MOST_SETS = 64
_LEAD = 4_000_000  # clock cycles (about 2 ms) that the GPU waits, so that the CPU has enqueued everything by then


@dataclass(frozen=True)
class Times:
    """Microseconds of single calls."""

    samples: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p90(self) -> float:
        return sorted(self.samples)[math.ceil(0.9 * len(self.samples)) - 1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: µs with a resolution of 10 ns."""
        return {
            "median_us": round(self.median, 2),
            "p90_us": round(self.p90, 2),
            "samples_us": [round(sample, 2) for sample in self.samples],
        }


class Meter:
    """Times calls that launch work on the current stream of a device."""

    def __init__(self, device: torch.device, samples: int = 30) -> None:
        self.device, self.samples = device, samples
        self.cuda = device.type == "cuda"
        self.cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size if self.cuda else 1 << 16
        self._other = torch.ones(2 * self.cache_bytes // 4, device=device)

    def sets(self, bytes_per_call: int) -> int:
        """How many sets of buffers outgrow the cache twice; 3 to 64, which is for kernels that touch little."""
        return min(_MOST_SETS, max(3, math.ceil(2 * self.cache_bytes / bytes_per_call)))

    def rotated(self, calls: Sequence[Call]) -> Times:
        """Calls on different buffers, as often as there are; they must be fit for capture in a CUDA graph."""
        replay, keep = self.captured(calls)
        replay()
        self.synchronize()
        self._hold()
        marks = []
        for _ in range(self.samples):
            begin = self._mark()
            replay()
            marks.append((begin, self._mark()))
        self.synchronize()
        del keep
        return Times([self._between(*pair) / len(calls) for pair in marks])

    def repeated(self, call: Call, samples: int | None = None) -> Times:
        """Intervals of calls one right after the other."""
        for _ in range(min(3, self.samples)):
            call()
        self.synchronize()
        marks = [self._mark()]
        for _ in range(samples or self.samples):
            call()
            marks.append(self._mark())
        self.synchronize()
        return Times([self._between(*pair) for pair in zip(marks, marks[1:], strict=False)])

    def cold(self, call: Call) -> Times:
        """Single calls, before each of which twice the cache's size is read."""
        call()
        self.synchronize()
        self._hold()
        marks = []
        for _ in range(self.samples):
            self._other.sum()  # reads alone: what is written would be written back while the call is timed
            begin = self._mark()
            call()
            marks.append((begin, self._mark()))
        self.synchronize()
        return Times([self._between(*pair) for pair in marks])

    def host(self, call: Call, count: int = 50) -> Times:
        """What a call costs the CPU; the device's work is waited for after each."""
        call()
        samples = []
        for _ in range(count):
            self.synchronize()
            begin = time.perf_counter()
            call()
            samples.append(1e6 * (time.perf_counter() - begin))
        self.synchronize()
        return Times(samples)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def captured(self, calls: Sequence[Call]) -> tuple[Callable[[], None], object]:
        """Something that makes all calls, by a CUDA graph on a GPU, and what must live as long."""

        def run() -> None:
            for call in calls:
                call()

        if not self.cuda:
            return run, None
        self.synchronize()  # buffers are filled by the current stream
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            run()  # compiles, and fills what launchers remember
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        return graph.replay, graph

    def _hold(self) -> None:
        if self.cuda:
            torch.cuda._sleep(_LEAD)  # type: ignore[no-untyped-call]

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        return float(1e3 * begin.elapsed_time(end)) if self.cuda else float(1e6 * (end - begin))


@triton.jit
def _empty_kernel(pointer):
    pass


def copy_rate(meter: Meter, size: int) -> tuple[float, Times]:
    """Bytes a second, those read and those written, that torch's copy_ moves: the roof of whatever streams memory.

    Args:
        size: bytes that are read (and written) by a call.
    """
    sets = meter.sets(2 * size)
    source, target = torch.ones(2, sets, size, dtype=torch.uint8, device=meter.device)

    def copy(index: int) -> Call:
        return lambda: target[index].copy_(source[index])

    times = meter.rotated([copy(index) for index in range(sets)])
    return 2 * size / (times.median * 1e-6), times


def launch_overhead(meter: Meter) -> dict[str, Any]:
    """What an empty kernel costs: the GPU in a graph of many, and the CPU by a Triton launch."""
    pointer = torch.zeros(1, dtype=torch.int32, device=meter.device)

    def empty() -> None:
        _empty_kernel[(1,)](pointer, enable_fp_fusion=True)

    return {
        "in_graph": meter.rotated([empty] * (_MOST_SETS if meter.cuda else 2)).to_dict(),
        "triton_launch_on_cpu": meter.host(empty, 50 if meter.cuda else 2).to_dict(),
    }
