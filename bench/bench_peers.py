"""rtlit and other networks (`bench/peers.py`) on the same frame, in one run, checked before they are timed.

pytest bench/bench_peers.py                            on the CPU, and on CUDA where there is one
RTLIT_BENCH_THREADS=1 pytest bench/bench_peers.py      one thread

The table's brackets are ratios to rtlit, which is given the frame in yuv420p and host memory; the peers get R'G'B' on
the device they run on. The CLIP-LIT U-Net is timed at 360p alone on a CPU, where it takes seconds.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.peers import PEERS, FramePeer
from rtlit import reference
from rtlit.backends.choose import available_threads
from rtlit.enhancer import Enhancer
from rtlit.frame import Color, PixelFormat

THREADS = int(os.environ.get("RTLIT_BENCH_THREADS", available_threads()))
FRAMES = Path(__file__).parent.parent / "tests" / "data" / "juggler_frames.npz"
SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
YUV420P, COLOR = PixelFormat("yuv420p"), Color()
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
ROUNDS = {"CLIP-LIT U-Net": 1, "Zero-DCE": 3}  # on a CPU

devices = pytest.mark.parametrize("device", DEVICES)
sizes = pytest.mark.parametrize("size", SIZES)


@lru_cache
def planes(size: str) -> tuple[Tensor, ...]:
    """A real frame, enlarged, in yuv420p."""
    file = np.load(FRAMES)
    rows_columns = [YUV420P.plane_size(index, *SIZES[size]) for index in range(3)]
    small = [torch.from_numpy(file[name][:1, None].astype(np.float32)) for name in "yuv"]
    large = [F.interpolate(plane, to, mode="bilinear")[0, 0] for plane, to in zip(small, rows_columns, strict=True)]
    return tuple((plane + 0.5).to(torch.uint8) for plane in large)


@lru_cache
def picture(size: str) -> Tensor:
    """The same in R'G'B' [H, W, 3]."""
    rgb = reference.planes_to_rgb(planes(size), YUV420P, COLOR).clamp(0, 1)
    return (rgb.permute(1, 2, 0) * 255 + 0.5).to(torch.uint8).contiguous()


def describe(benchmark: BenchmarkFixture, size: str, device: str) -> None:
    benchmark.group = f"{size}, {device}"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{THREADS} threads"
    benchmark.extra_info.update(torch=torch.__version__, device=name, megapixels=np.prod(SIZES[size]) / 1e6)


@devices
@sizes
def test_rtlit(benchmark: BenchmarkFixture, size: str, device: str) -> None:
    enhancer = Enhancer(device, threads=THREADS)  # type: ignore[arg-type]
    source = tuple(plane.numpy() for plane in planes(size))
    out = tuple(np.empty_like(plane) for plane in source)
    enhancer.enhance_planes(source, YUV420P, COLOR, None, out)
    assert out[0].mean(dtype=np.float64) > source[0].mean(dtype=np.float64), "a backlit frame becomes brighter"
    describe(benchmark, size, device)
    benchmark(enhancer.enhance_planes, source, YUV420P, COLOR, None, out)


@devices
@sizes
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_peer(benchmark: BenchmarkFixture, name: str, size: str, device: str, dtype: torch.dtype) -> None:
    if device == "cpu":
        if dtype == torch.float16:
            pytest.skip("fp16 is for GPUs")
        if size == "1080p" or (size == "720p" and name == "CLIP-LIT U-Net"):
            pytest.skip("tens of seconds a frame, or gigabytes")
        torch.set_num_threads(THREADS)
    layout = torch.channels_last if dtype == torch.float16 else torch.contiguous_format
    peer = FramePeer(name).to(device, dtype, memory_format=layout)  # type: ignore[call-overload]
    frame = picture(size).to(device)

    def enhance() -> Tensor:
        with torch.inference_mode():
            result: Tensor = peer(frame)
            if device == "cuda":
                torch.cuda.synchronize()
            return result

    result = enhance()
    assert result.shape == frame.shape and result.dtype == torch.uint8
    assert 0 < result.float().std() < 128, "neither flat nor not a number (which bytes can't show)"
    describe(benchmark, size, device)
    rounds = ROUNDS.get(name, 10) if device == "cpu" else 50
    benchmark.pedantic(enhance, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
