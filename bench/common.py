"""What the benchmarks share: sizes, real frames, and timing against yardsticks.

Machines are noisy, and their cores shared. So each benchmark has yardsticks, a copy of the same bytes or a plain
transcode of the same file, that run before every round of it: what slows the machine down slows both. Ratios to them
are what `bench/table.py` prints and compares. Seconds on the CPU are kept beside those on the clock.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch

from bench.clips import CLIP
from rtlit.avframe import planes_of
from rtlit.backends.choose import Plane, available_threads

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

Call = Callable[[], object]

SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
THREADS = int(os.environ.get("RTLIT_BENCH_THREADS", available_threads()))
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
_DIMMED = 0.4  # of the codes: about 2.6 EV
_MOST_ROUNDS, _LEAST_ROUNDS = 200, 5


def cpu_seconds() -> float:
    """Of all threads of this process, and of the children that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # os.times() counts hundredths of a second
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turns(
    benchmark: BenchmarkFixture,
    call: Call,
    yardsticks: Mapping[str, Call],
    *,
    what: str,
    at: str = "",
    units: int = 1,
    seconds: float = 1.0,
    rounds: int | None = None,
    warm: bool = True,
    **info: object,
) -> None:
    """Time a call, and its yardsticks before each round of it.

    What is recorded in `extra_info` is read by `bench/table.py`; medians of all rounds.

    Args:
        what, at: what it is and in which size or format, for people.
        units: frames (or pictures) that a call and each yardstick take on.
        seconds: for all rounds, if their number isn't given; there are 5 to 200.
        warm: make every call once before.
        info: more for `extra_info`; `once={name: seconds}` are yardsticks that were timed elsewhere.
    """
    began = time.perf_counter()
    for each in (call, *yardsticks.values()) if warm else ():
        each()
    if rounds is None:
        began = time.perf_counter() if warm else began
        for each in (call, *yardsticks.values()):
            each()
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(seconds / (time.perf_counter() - began))))
    walls: dict[str, list[float]] = {name: [] for name in yardsticks}
    busy: dict[str, list[float]] = {name: [] for name in ("", *yardsticks)}

    def before() -> None:
        for name, yardstick in yardsticks.items():
            clock, cpu = time.perf_counter(), cpu_seconds()
            yardstick()
            walls[name].append(time.perf_counter() - clock)
            busy[name].append(cpu_seconds() - cpu)

    def run() -> None:
        cpu = cpu_seconds()
        call()
        busy[""].append(cpu_seconds() - cpu)

    benchmark.pedantic(run, setup=before, rounds=rounds)  # type: ignore[no-untyped-call]
    median = statistics.median
    found = {
        name: {"seconds": median(walls[name]), "cpu_seconds": median(busy[name])} for name in yardsticks if walls[name]
    }
    once = info.pop("once", {})
    assert isinstance(once, dict)
    found |= {name: {"seconds": taken} for name, taken in once.items()}
    name = (
        torch.cuda.get_device_name()
        if info.get("device") == "cuda"
        else f"{THREADS} thread{'s' if THREADS > 1 else ''}"
    )
    benchmark.extra_info.update(info, what=what, at=at, units=units, yardsticks=found, device=name)
    benchmark.extra_info.update(cpu_seconds=median(busy[""]), torch=torch.__version__, pyav=av.__version__)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a single call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def copying(planes: tuple[Plane, ...]) -> Call:
    """Copies the planes to other memory, on one thread: what every enhancement must read and write."""
    targets = [np.ones_like(plane) for plane in planes]  # written: a page that never was costs more than a copy

    def copy() -> None:
        for target, source in zip(targets, planes, strict=True):
            np.copyto(target, source)

    return copy


@lru_cache(2)
def real_frames(size: str, pixel_format: str, count: int) -> list[av.VideoFrame]:
    """The first frames of a real clip of 720p, enlarged or reduced; `_DIMMED`, to have something to lift."""
    height, width = SIZES[size]
    result = []
    with av.open(str(CLIP)) as source:
        for frame in islice(source.decode(video=0), count):
            for index, plane in enumerate(planes_of(frame)):
                black = 128 if index else 16
                plane[...] = black + _DIMMED * (plane.astype(np.float32) - black) + 0.5
            result.append(frame.reformat(width, height, pixel_format, interpolation="FAST_BILINEAR"))
    return result


def planes_and_room(frame: av.VideoFrame) -> tuple[tuple[Plane, ...], tuple[Plane, ...]]:
    """A planar frame's planes, and memory of the same layout that was written before."""
    planes = planes_of(frame)
    return planes, tuple(np.ones_like(plane) for plane in planes)
