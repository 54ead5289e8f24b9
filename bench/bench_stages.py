"""Each stage of the CPU backend by itself, from 360p to 4K, checked against the reference before it is timed.

Frames are random noise, for which `apply` is slowest; docs/decisions.md, "CPU kernels", has real ones.

pytest bench/bench_stages.py                           all threads
RTLIT_BENCH_THREADS=1 pytest bench/bench_stages.py     one thread
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from rtlit import reference, weights
from rtlit.backends.choose import Plane, available_threads
from rtlit.backends.cpu import CpuBackend
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, load_network

THREADS = int(os.environ.get("RTLIT_BENCH_THREADS", available_threads()))
SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
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
    torch.set_num_threads(1)  # as the Enhancer runs it
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


def describe(benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info.update(backend=BACKEND.name, torch=torch.__version__, cores=available_threads())


@sizes
@formats
def test_analyze(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    c = case(size, name)
    thumbnail, _ = BACKEND.analyze(c.planes, c.pixel_format, COLOR, c.thumbnail_size)
    wanted, _ = reference.analyze(c.tensors, c.pixel_format, COLOR, c.thumbnail_size)
    np.testing.assert_allclose(thumbnail, wanted.numpy(), rtol=0, atol=5e-6)
    describe(benchmark)
    benchmark(BACKEND.analyze, c.planes, c.pixel_format, COLOR, c.thumbnail_size)


@sizes
def test_estimate(benchmark: BenchmarkFixture, size: str) -> None:
    thumbnail = reference.analyze(case(size, "yuv420p").tensors, PixelFormat("yuv420p"), COLOR, (72, 128))[0][None]
    with torch.inference_mode():
        once, in_batch = network()(thumbnail), network()(thumbnail.expand(2, -1, -1, -1))[:1]
        torch.testing.assert_close(once, in_batch, rtol=1e-4, atol=1e-4)
        describe(benchmark)
        benchmark(network(), thumbnail)


def test_smooth(benchmark: BenchmarkFixture) -> None:
    """The same at every size: it sees the grid alone."""
    estimate, grid = torch.randn(2, 3, 8, 9, 16)
    histogram = reference.tone_histogram(torch.rand(3, 72, 128))
    arguments = (estimate, histogram, grid, histogram, 1 / 30, 0.5)
    alpha = 1 - np.exp(-1 / 15)
    torch.testing.assert_close(reference.smooth(*arguments), (1 - alpha) * grid + alpha * estimate)
    describe(benchmark)
    benchmark(reference.smooth, *arguments)


@sizes
@formats
def test_apply(benchmark: BenchmarkFixture, size: str, name: str) -> None:
    c = case(size, name)
    out = tuple(np.empty_like(plane) for plane in c.planes)
    BACKEND.apply(c.planes, c.gain, c.pixel_format, COLOR, out)
    wanted = reference.apply_curves(c.tensors, torch.from_numpy(c.gain), c.pixel_format, COLOR)
    for got, want in zip(out, wanted, strict=True):
        assert np.abs(got.astype(np.int32) - want.numpy().astype(np.int32)).max() <= 1
    describe(benchmark)
    benchmark.extra_info["megapixels"] = np.prod(SIZES[size]) / 1e6
    benchmark(BACKEND.apply, c.planes, c.gain, c.pixel_format, COLOR, out)
