"""Enhancer: frames a second from 360p to 4K, the first frame, a change of strength, a change of size.

Frames are those of a real clip, and each result is compared with `rtlit.reference` before anything is timed.

pytest bench/bench_enhancer.py                           all threads, and on CUDA where there is a GPU
RTLIT_BENCH_THREADS=1 pytest bench/bench_enhancer.py     one thread
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from itertools import count
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.common import DEVICES, SIZES, THREADS, copying, in_turns, planes_and_room, real_frames, timed
from rtlit import reference
from rtlit.avframe import color_of, pixel_format_of, planes_of, to_planar
from rtlit.backends.choose import Plane
from rtlit.denoise import BITS, filter_planes
from rtlit.enhancer import Enhancer
from rtlit.settings import Device, EnhanceSettings

FRAMES, CHECKED = 8, 2
ESTIMATES = 1 / 15  # seconds between frames of which each is estimated on every backend
FPS = 30
# On the CPU a code may be rounded to the next, by what float32 leaves of a grid. A GPU estimates in half precision: the
# largest difference is in 8-bit codes, as in `bench/gpu_checks.py`. Few may differ by more than nothing, or than one.
WORST, SHARE = {"cpu": 1, "cuda": 2}, 0.001

Planes = tuple[Plane, ...]

devices = pytest.mark.parametrize("device", DEVICES)


def wanted(enhancer: Enhancer, frames: list[av.VideoFrame], strength: float) -> list[Planes]:
    """The same by the reference: planar frames, `ESTIMATES` apart."""
    grid = histogram = filtered = None
    result = []
    for frame in frames:
        pixel_format, color = pixel_format_of(frame), color_of(frame)
        codes = [torch.from_numpy(plane.astype(np.int32)) for plane in planes_of(frame)]
        size = enhancer.network.config.thumbnail_size(frame.height, frame.width)
        thumbnail, tones = reference.analyze(codes, pixel_format, color, size)
        with torch.inference_mode():
            estimate = enhancer.network.estimate(thumbnail[None], strength)[0]
        if grid is None or histogram is None:
            grid = estimate
        else:
            grid = reference.smooth(estimate, tones, grid, histogram, ESTIMATES, enhancer.smoothing)
        histogram, clean = tones, None
        if amount := enhancer.settings.denoise:
            filtered = filter_planes(codes, filtered, pixel_format, amount)
            clean = [plane / (1 << (BITS - pixel_format.depth)) for plane in filtered]
        gain = reference.exponentiate(grid, strength)
        lifted = reference.apply_curves(codes, gain, pixel_format, color, filtered=clean)
        result.append(cast(Planes, tuple(plane.numpy() for plane in lifted)))
    return result


def play(enhancer: Enhancer, frames: list[av.VideoFrame], out: list[Planes], begin: float, step: float) -> None:
    """Planar frames through the enhancer, as many in flight as it has room for."""
    waiting = deque[Any]()
    for index, frame in enumerate(frames):
        at = begin + step * index
        waiting.append(enhancer.submit(planes_of(frame), pixel_format_of(frame), color_of(frame), at, out[index]))
        if len(waiting) > enhancer.depth:
            waiting.popleft().wait()
    for ticket in waiting:
        ticket.wait()


def check(enhancer: Enhancer, frames: list[av.VideoFrame], device: str, strength: float = 1.0) -> float:
    """Compare the first frames with the reference.

    Returns:
        Seconds that the reference took for a frame.
    """
    chosen = frames[:CHECKED]
    out = [planes_and_room(frame)[1] for frame in chosen]
    enhancer.reset()
    play(enhancer, chosen, out, 0.0, ESTIMATES)
    taken, right = timed(lambda: wanted(enhancer, chosen, strength))
    for got, want in zip(out, right, strict=True):
        compare(got, want, device)
    enhancer.reset()
    return taken / CHECKED


def compare(got: Planes, want: Planes, device: str) -> None:
    """Raises: AssertionError, where a frame differs from what the reference makes of it."""
    for ours, theirs in zip(got, want, strict=True):
        difference = np.abs(ours.astype(np.int32) - theirs.astype(np.int32))
        one = (4 if ours.dtype == np.uint16 else 1) if device == "cuda" else 0  # 10 bits are the only ones above 8 here
        assert difference.max() <= WORST[device] * max(1, one) and (difference > one).mean() <= SHARE


def make(device: str, **settings: float | int) -> Enhancer:
    return Enhancer(cast(Device, device), threads=THREADS, **settings)  # type: ignore[arg-type]


@devices
@pytest.mark.parametrize("denoise", [0.0, 0.5], ids=["plain", "denoise"])
@pytest.mark.parametrize(
    ("size", "name"), [*((size, "yuv420p") for size in SIZES), ("1080p", "yuv420p10le"), ("1080p", "yuv444p")]
)
def test_frames(benchmark: BenchmarkFixture, size: str, name: str, denoise: float, device: str) -> None:
    """A video's frames, whose planes are at hand; the network sees every other one, at most 15 a second."""
    if denoise and name == "yuv444p":
        pytest.skip("nothing new after the other two formats")
    enhancer, frames = make(device, denoise=denoise), real_frames(size, name, FRAMES)
    slow = check(enhancer, frames, device)
    out = [planes_and_room(frame)[1] for frame in frames]
    play(enhancer, frames, out, 0.0, 1 / FPS)
    lifted, source = (float(planes[0].mean(dtype=np.float64)) for planes in (out[-1], planes_of(frames[-1])))
    assert lifted > 1.1 * source, "a dim frame becomes brighter"
    times = count(1)
    copies = [copying(planes_of(frame)) for frame in frames]
    in_turns(
        benchmark,
        lambda: play(enhancer, frames, out, next(times) * FRAMES / FPS, 1 / FPS),
        {"memory copy": lambda: [copy() for copy in copies]},
        what="Enhancer, denoise" if denoise else "Enhancer",
        at=f"{size} {name}",
        units=FRAMES,
        seconds=2,
        device=device,
        once={"reference in torch": slow * FRAMES},
        megapixels=np.prod(SIZES[size]) / 1e6,
    )


@devices
@pytest.mark.parametrize("kind", ["av.VideoFrame yuv420p", "av.VideoFrame nv12", "numpy rgb24"])
def test_calls(benchmark: BenchmarkFixture, kind: str, device: str) -> None:
    """`enhancer(picture)`, which gives a new picture, converted where it isn't planar."""
    name = kind.split()[-1]
    enhancer, frame = make(device), real_frames("1080p", name, 1)[0]
    times = count()
    source: Any = frame.to_ndarray() if name == "rgb24" else frame
    result = enhancer(source, 0.0)
    planar = to_planar(frame)
    if isinstance(result, np.ndarray):
        result = av.VideoFrame.from_ndarray(cast("NDArray[np.uint8]", result), "rgb24")
    compare(planes_of(to_planar(result)), wanted(enhancer, [planar], 1.0)[0], device)
    in_turns(
        benchmark,
        lambda: enhancer(source, next(times) / FPS),
        {"memory copy": copying(planes_of(planar))},
        what="enhancer(picture)",
        at=f"1080p {kind}",
        device=device,
    )


@devices
def test_strength_change(benchmark: BenchmarkFixture, device: str) -> None:
    """A frame with another strength than the one before; nothing is compiled or captured anew."""
    enhancer, frames = make(device, estimate_every=1), real_frames("1080p", "yuv420p", 2)
    for strength in (0.0, 1.6, 1.0):
        enhancer.strength = strength
        check(enhancer, frames, device, strength)
    out, times = [planes_and_room(frames[0])[1]], count()

    def frame(strength: float) -> None:
        enhancer.strength = strength
        play(enhancer, frames[:1], out, next(times) / FPS, 0)

    in_turns(
        benchmark,
        lambda: frame(0.6),
        {"the frame before it": lambda: frame(1.0)},
        what="strength changes",
        at="1080p yuv420p",
        device=device,
    )


@devices
def test_size_change(benchmark: BenchmarkFixture, device: str) -> None:
    """The first frame after one of another size, which begins a new video."""
    enhancer = make(device, estimate_every=1)
    large, small = (real_frames(size, "yuv420p", 2) for size in ("1080p", "720p"))
    outs = {size[0].height: [planes_and_room(size[0])[1]] for size in (large, small)}
    for frames in (small, large, small, large):
        check_still(enhancer, frames[0], device)
    times = count()

    def frame(source: av.VideoFrame) -> None:
        play(enhancer, [source], outs[source.height], next(times) / FPS, 0)

    in_turns(
        benchmark,
        lambda: frame(large[0]),
        {"the frame after it": lambda: frame(large[0]), "720p before it": lambda: frame(small[0])},
        what="size changes, 720p → 1080p",
        at="1080p yuv420p",
        device=device,
    )


def check_still(enhancer: Enhancer, frame: av.VideoFrame, device: str) -> None:
    """Without forgetting the video before: the frame must be as if it were the first."""
    out = [planes_and_room(frame)[1]]
    play(enhancer, [frame], out, 0.0, 0.0)
    compare(out[0], wanted(enhancer, [frame], 1.0)[0], device)


FIRST = """
import sys, time
import numpy as np
from rtlit import Enhancer
from rtlit.frame import Color, PixelFormat
source, target, device, threads = sys.argv[1:]
planes = tuple(np.load(source).values())
begin = time.perf_counter()
enhancer = Enhancer(device, threads=int(threads))
enhancer.enhance_planes(planes, PixelFormat("yuv420p"), Color(), 0.0, planes)
print(time.perf_counter() - begin)
np.savez(target, *planes)
"""
IMPORTS = "import av, numba, numpy, torch"


@devices
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_frame(benchmark: BenchmarkFixture, tmp_path: Path, cache: str, device: str) -> None:
    """A whole process, from its start to its first frame; cold: with every kernel to compile."""
    frame = real_frames("1080p", "yuv420p", 1)[0]
    source, target = tmp_path / "source.npz", tmp_path / "target.npz"
    np.savez(source, *planes_of(frame))
    inner: list[float] = []
    folders = count()

    def first() -> None:
        folder = str(tmp_path / (f"cold{next(folders)}" if cache == "cold" else "warm"))
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder}
        arguments = (str(source), str(target), device, str(THREADS))
        inner.append(float(python(FIRST, *arguments, environment=environment)))

    if cache == "warm":
        first()
        inner.clear()
    in_turns(
        benchmark,
        first,
        {"imports of torch, numba, PyAV": lambda: python(IMPORTS)},
        what="first frame of a process",
        at=f"1080p, {cache} cache of kernels",
        rounds=1 if cache == "cold" else 3,
        warm=False,
        device=device,
    )
    found = cast(Planes, tuple(np.load(target).values()))
    out = planes_and_room(frame)[1]
    enhancer = make(device)
    play(enhancer, [frame], [out], 0.0, 0.0)
    compare(out, wanted(enhancer, [frame], 1.0)[0], device)
    compare(found, out, device)
    benchmark.extra_info["note"] = f"Enhancer() to its first frame: {sorted(inner)[len(inner) // 2]:.2f} s"


def python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a Python process of its own prints."""
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def test_nothing_is_set_by_hand() -> None:
    """The settings that are measured are the ones that users have."""
    assert Enhancer("cpu", threads=THREADS).settings == EnhanceSettings("cpu", threads=THREADS)
