"""That the CUDA engine waits for all that it must, and that nothing of a slot is used before its time: on streams that
put work off and take it up by lot (`tests.lazy_streams`), the results are those of streams that do it at once.

The stages are a sum that depends on every frame before, as it is the order of things that is tested here.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("triton") is None and sys.platform != "linux":
    pytest.skip(f"no triton for {sys.platform}", allow_module_level=True)

from tests.kernels.conftest import CUDA  # before triton: chooses its interpreter where there is no GPU

# isort: split
from rtlit.backends import slots
from rtlit.backends.cuda_engine import SLOTS, Engine, Ticket, _Plan
from rtlit.backends.streams import CudaStreams, HostStreams
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, NetworkConfig
from rtlit.settings import EnhanceSettings
from tests.lazy_streams import LazyStreams, rubbish

pytestmark = pytest.mark.skipif(CUDA, reason="the streams of the CPU")

Planes = tuple[np.ndarray[Any, Any], ...]
SEEDS = range(12)


@pytest.fixture(autouse=True)
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that are quick, and put off on a lazy lane as one."""

    def lift(plan: _Plan, slot: slots.Slot) -> None:
        memory = plan.state.frames_since
        _, strength, afresh, _ = slot.controls.tolist()
        planes = [plane if plane.dtype == torch.uint8 else plane.view(torch.int16) for plane in slot.planes]
        sum_ = int(sum(int(plane.long().sum()) for plane in planes) % 251)
        memory.copy_((memory * (1 - int(afresh)) * 3 + sum_ + int(100 * strength)) % 251)
        for plane in planes:
            plane.copy_(plane ^ memory.to(plane.dtype))

    def enqueue(plan: _Plan, slot: slots.Slot) -> None:
        streams = plan._engine.streams
        if isinstance(streams, LazyStreams):
            streams.put("compute", lambda: lift(plan, slot))
        else:
            lift(plan, slot)

    monkeypatch.setattr(_Plan, "enqueue", enqueue)


@pytest.fixture(scope="module")
def network() -> CurveNetwork:
    return CurveNetwork(NetworkConfig(thumbnail=32, width=32, blocks=1))


def engine_on(streams: Any, network: CurveNetwork) -> Engine:
    engine = Engine(streams, network, EnhanceSettings())
    streams.lazy = True
    return engine


def frames(name: str, count: int, size: tuple[int, int] = (20, 34)) -> list[Planes]:
    rng, pixel_format = np.random.default_rng(count), PixelFormat(name)
    dtype = np.uint8 if pixel_format.depth == 8 else np.uint16
    shapes = [pixel_format.plane_size(index, *size) for index in range(3)]
    if pixel_format.interleaved:
        shapes = [shapes[0], (shapes[1][0], 2 * shapes[1][1])]
    return [tuple(rng.integers(0, 256, shape).astype(dtype) for shape in shapes) for _ in range(count)]


def played(engine: Engine, name: str, clip: list[Planes], late: int, lot: random.Random) -> list[Planes]:
    """Each frame's memory is somebody else's as soon as its ticket was waited for; a still lies between some."""
    results, waiting = [], deque[tuple[Ticket, Planes]]()
    for index, frame in enumerate(clip):
        source, out = tuple(plane.copy() for plane in frame), tuple(np.zeros_like(plane) for plane in frame)
        pts = None if index % 5 == 3 else index / 24
        ticket = engine.submit(source, PixelFormat(name), Color(), pts, out, strength=1 + index / 100)
        for plane in source:  # was copied by then
            plane.fill(7)
        waiting.append((ticket, out))
        while len(waiting) > lot.randint(0, late):
            results.append(_taken(*waiting.popleft()))
    return results + [_taken(*each) for each in waiting]


def _taken(ticket: Ticket, out: Planes) -> Planes:
    ticket.wait()
    return tuple(plane.copy() for plane in out)


def alike(some: list[Planes], others: list[Planes]) -> bool:
    return all(np.array_equal(a, b) for pair in zip(some, others, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("name", ["yuv420p", "nv12", "p010le"])
def test_any_order_of_the_lanes_gives_the_same_frames(network: CurveNetwork, name: str) -> None:
    clip = frames(name, 14)
    want = played(engine_on(HostStreams(), network), name, clip, 0, random.Random(0))
    for seed in SEEDS:
        streams = LazyStreams(seed)
        assert alike(played(engine_on(streams, network), name, clip, SLOTS + 1, random.Random(seed)), want), seed
        streams.finish()


def test_sizes_in_turn(network: CurveNetwork) -> None:
    """More of them than plans are kept: those that go are finished before."""
    clip = [frame for size in (20, 16, 24, 28, 32, 36, 20) for frame in frames("yuv420p", 3, (size, 34))]
    want = played(engine_on(HostStreams(), network), "yuv420p", clip, 0, random.Random(0))
    for seed in SEEDS:
        engine = engine_on(LazyStreams(seed), network)
        assert alike(played(engine, "yuv420p", clip, SLOTS + 1, random.Random(seed)), want), seed
        assert all(seconds > 0 for seconds in engine.seconds.values())


@pytest.mark.parametrize(("stored", "name"), [("nv12", "nv12"), ("p010le", "p010le"), ("p010le", "yuv420p10le")])
def test_tensors_that_others_fill_and_read(network: CurveNetwork, stored: str, name: str) -> None:
    """As a decoder's and an encoder's on the default stream: they write before a frame is submitted, and again as soon
    as its ticket was waited for; they read what is kept."""
    clip = [tuple(plane << PixelFormat(stored).low_bits for plane in frame) for frame in frames(stored, 9)]

    def run(streams: Any) -> list[Planes]:
        engine, results, waiting = engine_on(streams, network), [], deque[Callable[[], None]]()
        for index, frame in enumerate(clip):
            source = tuple(rubbish(torch.from_numpy(np.empty_like(plane))) for plane in frame)
            with streams.on("others"):
                for tensor, plane in zip(source, frame, strict=True):
                    tensor.copy_(torch.from_numpy(plane))
            out = None
            if name != stored:
                shapes = [PixelFormat(name).plane_size(plane, *frame[0].shape) for plane in range(3)]
                out = tuple(np.zeros(shape, np.uint16) for shape in shapes)
            low_bits = PixelFormat(stored).low_bits
            ticket = engine.submit(source, PixelFormat(name), Color(), index / 24, out, 0, 1.0, low_bits)

            def take(ticket: Ticket = ticket, source: Any = source, out: Any = out) -> None:
                kept = ticket.wait()
                with streams.on("others"):
                    for tensor in source:
                        tensor.view(torch.uint8).fill_(1)
                results.append(tuple(plane.numpy().copy() for plane in kept) if out is None else out)

            waiting.append(take)
            if len(waiting) > engine.depth:
                waiting.popleft()()
        for take in waiting:
            take()
        return results

    want = run(HostStreams())
    for seed in SEEDS:
        assert alike(run(LazyStreams(seed)), want), seed


def test_what_is_copied_from_lives_until_it_was(network: CurveNetwork) -> None:
    """A decoder's frame, which goes back to the decoder with the last of its tensors."""
    streams = HostStreams()
    source = tuple(torch.from_numpy(plane) for plane in frames("nv12", 1)[0])
    ticket = engine_on(streams, network).submit(source, PixelFormat("nv12"), Color(), 0.0, None)
    alive = [weakref.ref(plane) for plane in source]
    del source
    assert all(each() is not None for each in alive)
    ticket.wait()
    assert all(each() is None for each in alive)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_capture_leaves(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Garbage is collected again, and what failed is said: not that the capture was broken off."""
    calls: list[str] = []

    class Graph:
        def capture_begin(self, capture_error_mode: str) -> None:
            calls.append(capture_error_mode)

        def capture_end(self) -> None:
            calls.append("end")
            if fails:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        def replay(self) -> None:
            calls.append("replay")

    def work() -> None:
        calls.append("collects" if gc.isenabled() else "work")
        if fails:
            raise ValueError("no such plane")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(CudaStreams, "on", lambda *_: nullcontext())
    streams = CudaStreams.__new__(CudaStreams)
    if fails:
        with pytest.raises(ValueError, match="no such plane"):
            streams.capture(work)
    else:
        streams.capture(work)()
    assert calls == ["thread_local", "work", "end", *([] if fails else ["replay"])] and gc.isenabled()


def test_what_is_kept_lies_as_nvenc_takes_it(network: CurveNetwork) -> None:
    """NVENC is told of one address and one pitch: chroma follows the last row of luma, in rows as long."""
    for name, size in (("nv12", (20, 34)), ("p010le", (18, 130))):
        packing = slots.Packing(PixelFormat(name), size)
        luma, chroma = packing.stored(torch.zeros(packing.bytes, dtype=torch.uint8))
        assert luma.stride() == chroma.stride()
        assert chroma.data_ptr() == luma.data_ptr() + luma.shape[0] * luma.stride(0) * luma.element_size()
