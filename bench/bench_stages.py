"""Each stage of the CPU backend by itself, from 360p to 4K, checked against the reference before it is timed.

Frames are random noise, for which `apply` is slowest; docs/decisions.md, "CPU kernels", has real ones.

pytest bench/bench_stages.py                           all threads
RTLIT_BENCH_THREADS=1 pytest bench/bench_stages.py     one thread

Where there is a GPU, its kernels follow; `bench/gpu.py` measures them in more depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from bench.common import SIZES, THREADS, Call, copying, in_turns, timed
from rtlit import reference, weights
from rtlit.backends.choose import Plane
from rtlit.backends.cpu import CpuBackend
from rtlit.denoise import BITS, filter_planes
from rtlit.enhancer import Enhancer
from rtlit.frame import Color, PixelFormat
from rtlit.full_resolution import torch_threads
from rtlit.network import CurveNetwork, load_network

BACKEND, COLOR = CpuBackend(THREADS), Color()

sizes = pytest.mark.parametrize("size", SIZES)
formats = pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le"])


@dataclass(frozen=True)
class Case:
    """A frame, a grid, and what the reference makes of them."""

    planes: tuple[Plane, ...]
    tensors: list[torch.Tensor]
    gain: NDArray[np.float32]
    thumbnail_size: tuple[int, int]
    pixel_format: PixelFormat


@lru_cache(1)
def network() -> CurveNetwork:
    return load_network(weights.DEFAULT)


@lru_cache(2)
def case(size: str, name: str) -> Case:
    rng = np.random.default_rng(0)
    height, width = SIZES[size]
    pixel_format = PixelFormat(name)
    dtype = np.uint8 if pixel_format.depth == 8 else np.uint16
    shapes = [pixel_format.plane_size(index, height, width) for index in range(3)]
    planes = tuple(rng.integers(0, pixel_format.max_code, shape, dtype, endpoint=True) for shape in shapes)
    gain = np.exp(rng.uniform(-1, 3, (3, 8, 9, 16))).astype(np.float32)
    tensors = [torch.from_numpy(plane) for plane in planes]
    return Case(planes, tensors, gain, network().config.thumbnail_size(height, width), pixel_format)


def measured(
    benchmark: BenchmarkFixture, what: str, at: str, call: Call, yardsticks: dict[str, Call], slow: float
) -> None:
    once = {"reference in torch": slow} if slow else {}
    with torch_threads(1):  # as in the Enhancer; the backend's own threads are another matter
        in_turns(benchmark, call, yardsticks, what=what, at=at, once=once, seconds=0.5, device="cpu")


@sizes
@formats
def test_analyze(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    c = case(size, name)
    arguments = (c.pixel_format, COLOR, c.thumbnail_size)
    thumbnail, _ = BACKEND.analyze(c.planes, *arguments)
    slow, (wanted, _) = timed(lambda: reference.analyze(c.tensors, *arguments))
    np.testing.assert_allclose(thumbnail, wanted.numpy(), rtol=0, atol=5e-6)
    copy = {"memory copy": copying(c.planes)}
    measured(benchmark, "analyze", f"{size} {name}", lambda: BACKEND.analyze(c.planes, *arguments), copy, slow)


def test_estimate(benchmark: BenchmarkFixture) -> None:
    """The same at every size of 16:9: it sees the thumbnail alone."""
    c = case("1080p", "yuv420p")
    thumbnail = reference.analyze(c.tensors, c.pixel_format, COLOR, c.thumbnail_size)[0][None]
    with torch.inference_mode(), torch_threads(1):
        with FlopCounterMode(display=False) as counter:
            wanted = network().estimate(thumbnail)
        estimate = Enhancer("cpu", threads=1).network.estimate
        torch.testing.assert_close(estimate(thumbnail), wanted, rtol=1e-4, atol=1e-4)
        matrix = torch.rand(2, *[round((counter.get_total_flops() / 2) ** (1 / 3))] * 2)
        product: dict[str, Call] = {"matrix product of as many operations": lambda: matrix[0] @ matrix[1]}
        measured(benchmark, "estimate", "16:9", lambda: estimate(thumbnail), product, 0)


def test_smooth(benchmark: BenchmarkFixture) -> None:
    """The same at every size: it sees the grid alone."""
    estimate, grid = torch.randn(2, 3, 8, 9, 16)
    histogram = reference.tone_histogram(torch.rand(3, 72, 128))
    arguments = (estimate, histogram, grid, histogram, 1 / 30, 0.5)
    alpha = 1 - np.exp(-1 / 15)
    kept = (1 - alpha) * (grid - estimate).clamp(-reference.MAX_LAG, reference.MAX_LAG)
    torch.testing.assert_close(reference.smooth(*arguments), estimate + kept)
    many = range(100)
    in_turns(
        benchmark,
        lambda: [reference.smooth(*arguments) for _ in many],
        {"copy of the grid": lambda: [grid.clone() for _ in many]},
        what="smooth",
        units=len(many),
        device="cpu",
    )


@sizes
@formats
def test_denoise(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    """Noise after the same noise moved by a pixel: everything moves, and each sum is taken."""
    c = case(size, name)
    shift = BITS - c.pixel_format.depth
    last = tuple(np.left_shift(np.roll(plane, 1, 1), shift, dtype=np.uint16) for plane in c.planes)
    out = tuple(np.empty_like(plane) for plane in last)
    BACKEND.denoise(c.planes, last, c.pixel_format, 0.5, out)
    before = [torch.from_numpy(plane.astype(np.float32)) for plane in last]
    slow, wanted = timed(lambda: filter_planes(c.tensors, before, c.pixel_format, 0.5))
    for got, want in zip(out, wanted, strict=True):
        assert np.abs(got.astype(np.int32) - want.numpy()).max() <= 1
    copies = copying(c.planes), copying(last)
    run: Call = lambda: BACKEND.denoise(c.planes, last, c.pixel_format, 0.5, out)  # noqa: E731
    copy: dict[str, Call] = {"memory copy": lambda: [each() for each in copies]}
    measured(benchmark, "denoise", f"{size} {name}", run, copy, slow)


@sizes
@formats
def test_apply(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    c = case(size, name)
    out = tuple(np.empty_like(plane) for plane in c.planes)
    BACKEND.apply(c.planes, c.gain, c.pixel_format, COLOR, out)
    gain = torch.from_numpy(c.gain)
    slow, wanted = timed(lambda: reference.apply_curves(c.tensors, gain, c.pixel_format, COLOR))
    for got, want in zip(out, wanted, strict=True):
        assert np.abs(got.astype(np.int32) - want.numpy().astype(np.int32)).max() <= 1
    run: Call = lambda: BACKEND.apply(c.planes, c.gain, c.pixel_format, COLOR, out)  # noqa: E731
    measured(benchmark, "apply", f"{size} {name}", run, {"memory copy": copying(c.planes)}, slow)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", ["analyze", "estimate", "restrain", "follow", "filter_planes", "apply_curves"])
@pytest.mark.parametrize("name", ["nv12", "p010le"])
@sizes
def test_kernel(benchmark: BenchmarkFixture, size: str, name: str, kernel: str) -> None:
    """A Triton kernel, launched in a CUDA graph on as many sets of buffers as outgrow the L2 cache twice."""
    from bench.gpu_cases import FORMATS, KernelCases, Plan
    from bench.gpu_timing import Meter

    plan, meter = Plan.make(), Meter(torch.device("cuda"))
    cases = KernelCases(plan, FORMATS[name], SIZES[size])
    found = cases.check(kernel)
    assert found["ok"], found
    moved = cases.bytes_moved(kernel)
    sets = meter.sets(moved)
    source, target = torch.ones(2, sets, max(1, moved // 2), dtype=torch.uint8, device=meter.device)
    launches, keep = meter.captured(cases.calls(kernel, sets))
    copies, keep_too = meter.captured([partial(target[index].copy_, source[index]) for index in range(sets)])

    def finished(replay: Call) -> Call:
        return lambda: [call() for call in (replay, meter.synchronize)]

    yardsticks = {"copy of the bytes it moves": finished(copies)}
    at = f"{size} {name}"
    in_turns(benchmark, finished(launches), yardsticks, what=f"kernel {kernel}", at=at, units=sets, device="cuda")
    del keep, keep_too
