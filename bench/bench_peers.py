"""rtlit and other networks (`bench/peers.py`) on the same frame, in one run, checked before they are timed.

pytest bench/bench_peers.py                            on the CPU, and on CUDA where there is one
RTLIT_BENCH_THREADS=1 pytest bench/bench_peers.py      one thread

Ratios are to rtlit, which runs in turns with each peer, and is given the frame in yuv420p and host memory; the peers
get R'G'B' on the device that they run on. On a CPU the CLIP-LIT U-Net and Zero-DCE are timed up to 720p.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.common import DEVICES, SIZES, THREADS, Call, in_turns
from bench.peers import PEERS, FramePeer
from rtlit import reference
from rtlit.enhancer import Enhancer
from rtlit.frame import Color, PixelFormat

FRAMES = Path(__file__).parent.parent / "tests" / "data" / "juggler_frames.npz"
YUV420P, COLOR = PixelFormat("yuv420p"), Color()
ON_CPU = {"CLIP-LIT U-Net": ["360p", "720p"], "Zero-DCE": ["360p", "720p"]}
ROUNDS = {"CLIP-LIT U-Net": 1, "Zero-DCE": 3}  # on a CPU

devices = pytest.mark.parametrize("device", DEVICES)
sizes = pytest.mark.parametrize("size", ["360p", "720p", "1080p"])


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


def ours(size: str, device: str) -> Call:
    """rtlit on the frame, as a still: the network runs on every one."""
    enhancer = Enhancer(device, threads=THREADS)  # type: ignore[arg-type]
    source = tuple(plane.numpy() for plane in planes(size))
    out = tuple(np.empty_like(plane) for plane in source)
    enhancer.enhance_planes(source, YUV420P, COLOR, None, out)
    assert out[0].mean(dtype=np.float64) > source[0].mean(dtype=np.float64), "a backlit frame becomes brighter"
    return lambda: enhancer.enhance_planes(source, YUV420P, COLOR, None, out)


@devices
@sizes
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_peer(benchmark: BenchmarkFixture, name: str, size: str, device: str, dtype: torch.dtype) -> None:
    if device == "cpu":
        if dtype == torch.float16:
            pytest.skip("fp16 is for GPUs")
        if size not in ON_CPU.get(name, SIZES):
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
    way = " fp16, channels_last" if dtype == torch.float16 else ""
    rounds = ROUNDS.get(name, 5) if device == "cpu" else 50
    yardsticks = {"rtlit": ours(size, device)}
    in_turns(benchmark, enhance, yardsticks, what=name + way, at=size, rounds=rounds, warm=False, device=device)
