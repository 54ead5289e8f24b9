"""The steps of bench/gpu.py that measure."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.gpu_cases import (
    COLOR,
    FORMATS,
    KernelCases,
    Plan,
    WatchedStreams,
    clip,
    enlarged,
    host_frames,
    make_engine,
    play,
)
from bench.gpu_timing import Call, Meter, copy_rate, launch_overhead
from bench.peers import FramePeer
from rtlit import reference

if TYPE_CHECKING:
    from bench.gpu import Report

_COPY_BYTES = 1 << 28  # far beyond any cache
_BUS_BYTES = 1 << 26
_TINY_BYTES = 1 << 16
_COMPILE_SECONDS = 40
_PEER_SECONDS = 1.0  # for the samples of one
_EAGER = {"eager fp32": torch.float32, "fp16 channels_last": torch.float16}


def machine(report: Report, plan: Plan) -> None:
    """Copy bandwidth, launches, and the bus: what the rest is measured against."""
    meter = Meter(plan.device, plan.samples)
    size = _TINY_BYTES if plan.rehearsal else _COPY_BYTES
    report.attempt("copy", make=lambda: _copy(meter, size))
    report.attempt("launch", make=lambda: launch_overhead(meter))
    report.attempt("bus", make=lambda: _bus(meter, min(size, _BUS_BYTES)))


def _copy(meter: Meter, size: int) -> dict[str, Any]:
    rate, times = copy_rate(meter, size)
    return {"bytes": 2 * size, "gb_per_s": round(rate / 1e9, 1), **times.to_dict()}


def _bus(meter: Meter, size: int) -> dict[str, Any]:
    host = torch.ones(size, dtype=torch.uint8, pin_memory=meter.cuda)
    device = torch.ones(size, dtype=torch.uint8, device=meter.device)
    ways = {"upload": (device, host), "download": (host, device)}
    result = {}
    for name, (target, source) in ways.items():
        times = meter.repeated(partial(target.copy_, source, non_blocking=True))
        result[name] = {"gb_per_s": round(size / times.median / 1e3, 2), **times.to_dict()}
    return result


def frames(report: Report, plan: Plan) -> None:
    """A frame of 1080p NV12 through the graph of all stages, with and without denoising."""
    meter = Meter(plan.device, plan.samples)
    for name, denoise in {"1080p nv12": 0.0, "1080p nv12, denoise": 0.5}.items():
        report.attempt(name, make=partial(_graph, meter, plan, "1080p", "nv12", denoise))


def kernels(report: Report, plan: Plan) -> None:
    """Each kernel at 1080p NV12, checked against the reference before it is timed."""
    _kernels(report, plan, "1080p", "nv12", check=True)


def sizes(report: Report, plan: Plan) -> None:
    """Kernels and graph at other sizes, and at 1080p in other pixel formats."""
    meter = Meter(plan.device, plan.samples)
    cases = [("4K", "nv12"), ("720p", "nv12"), ("1080p", "yuv420p"), ("1080p", "p010le"), ("8K", "nv12")]
    for size, name in cases:
        _kernels(report, plan, size, name, check=size != "8K")
        report.attempt(f"{size} {name}", "graph", make=partial(_graph, meter, plan, size, name))


def _kernels(report: Report, plan: Plan, size: str, name: str, check: bool) -> None:
    meter = Meter(plan.device, plan.samples)
    headings = (f"{size} {name}",)
    cases = KernelCases(plan, FORMATS[name], plan.sizes[size])
    frame_bytes = cases.frame_bytes

    def copied() -> dict[str, Any]:
        rate, times = copy_rate(meter, frame_bytes)
        return {"bytes": 2 * frame_bytes, "gb_per_s": round(rate / 1e9, 1), **times.to_dict()}

    report.attempt(*headings, "copy of a frame", make=copied)
    rate, _ = copy_rate(meter, _TINY_BYTES if plan.rehearsal else _COPY_BYTES)

    def measured(kernel: str) -> dict[str, Any]:
        moved = cases.bytes_moved(kernel)
        calls = cases.calls(kernel, meter.sets(moved))
        checked = cases.check(kernel) if check else {}
        if checked.get("ok") is False:
            return {**checked, "error": "differs from the reference; not timed"}
        times = meter.rotated(calls)
        moving = {"gb_per_s": round(moved / times.median / 1e3, 1)}
        moving["percent_of_copy"] = round(100 * moved / (times.median * 1e-6) / rate, 1)
        return {**checked, "bytes": moved, **moving, **times.to_dict()}

    for kernel in cases.names:
        report.attempt(*headings, kernel, make=partial(measured, kernel))


def _graph(meter: Meter, plan: Plan, size: str, name: str, denoise: float = 0.0) -> dict[str, Any]:
    streams, replay = _replays(plan, size, name, denoise)
    with torch.inference_mode(), streams.on("compute"):
        cold, repeated = meter.cold(replay), meter.repeated(replay)
        host = meter.host(replay, plan.samples)
    return {"cold": cold.to_dict(), "repeated": repeated.to_dict(), "launch_on_cpu": host.to_dict()}


def _replays(plan: Plan, size: str, name: str, denoise: float = 0.0) -> tuple[WatchedStreams, Call]:
    """Replays the graphs of an engine that some frames went through, one slot after the other."""
    streams = WatchedStreams(plan.device)
    engine = make_engine(plan, streams, denoise=denoise)
    count = 2 if plan.rehearsal else engine.depth + 2  # the first is launched plainly, then each slot has its graph
    play(engine, host_frames(FORMATS[name], plan.sizes[size], count), FORMATS[name])
    if not streams.replays:
        raise RuntimeError("the engine captured no graph")
    order = cycle(streams.replays)

    def replay(engine: object = engine) -> None:  # which owns the buffers
        next(order)()

    return streams, replay


def peers(report: Report, plan: Plan) -> None:
    """Other networks on a 1080p frame, and rtlit's graph beside them, timed in the same way."""
    meter = Meter(plan.device, plan.samples)
    report.attempt("rtlit", make=partial(_our_time, meter, plan))
    for name in ("Zero-DCE++", "CLIP-LIT U-Net", "SCI", "Zero-DCE"):  # of the first two the targets speak
        for way, dtype in _EAGER.items():
            report.attempt(name, way, make=partial(_peer, meter, plan, report, name, dtype))


def compiled_peers(report: Report, plan: Plan) -> None:
    """The same by torch.compile in fp16, each as far as it gets in its time."""
    meter = Meter(plan.device, plan.samples)
    report.attempt("rtlit", make=partial(_our_time, meter, plan))

    def measured(name: str) -> dict[str, Any]:
        began = time.perf_counter()
        with _time_limit(_COMPILE_SECONDS):
            result = _peer(meter, plan, report, name, torch.float16, compiled=True)
        return {**result, "with_compilation_s": round(time.perf_counter() - began, 1)}

    for name in ("Zero-DCE++", "SCI", "CLIP-LIT U-Net", "Zero-DCE"):
        report.attempt(name, "torch.compile fp16", make=partial(measured, name))


def _our_time(meter: Meter, plan: Plan) -> dict[str, Any]:
    streams, replay = _replays(plan, "1080p", "nv12")
    with torch.inference_mode(), streams.on("compute"):
        return meter.repeated(replay).to_dict()


def _peer(
    meter: Meter, plan: Plan, report: Report, name: str, dtype: torch.dtype, compiled: bool = False
) -> dict[str, Any]:
    layout = torch.channels_last if dtype == torch.float16 else torch.contiguous_format
    peer = FramePeer(name).to(plan.device, dtype, memory_format=layout)  # type: ignore[call-overload]
    if compiled:  # without a code generator in a rehearsal: Triton is the interpreter there
        peer.network.compile(backend="eager" if plan.rehearsal else "inductor")
    codes = enlarged(clip()[0][0], FORMATS["yuv420p"], plan.sizes["1080p"])
    rgb = reference.planes_to_rgb(codes, FORMATS["yuv420p"], COLOR).clamp(0, 1)
    frame = (rgb.permute(1, 2, 0) * 255 + 0.5).to(torch.uint8).contiguous().to(plan.device)
    with torch.inference_mode():
        result = peer(frame)
        spread = float(result.float().std())
        if result.shape != frame.shape or not 0 < spread < 128:
            raise RuntimeError(f"no picture: {list(result.shape)} of a standard deviation of {spread}")
        first = meter.repeated(partial(peer, frame), samples=2).median
        samples = int(min(plan.samples, max(3, 1e6 * _PEER_SECONDS / first)))
        times = meter.repeated(partial(peer, frame), samples=samples)
    ours = report.values["rtlit"].get("median_us")
    return {**({"ratio": round(times.median / ours, 2)} if ours else {}), **times.to_dict()}


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def stream(report: Report, plan: Plan) -> None:
    """Frames from host memory to host memory, several in flight: frames a second, and how long the GPU is idle."""
    cases = [("1080p", "nv12"), ("1080p", "yuv420p"), ("4K", "nv12"), ("1080p", "p010le")]
    for size, name in cases[: 1 if plan.rehearsal else None]:
        report.attempt(f"{size} {name}", make=partial(_streamed, plan, size, name))


def _streamed(plan: Plan, size: str, name: str) -> dict[str, Any]:
    engine = make_engine(plan)
    sources = host_frames(FORMATS[name], plan.sizes[size], 6)
    # Memory that was written before: a new page costs more than the copy into it.
    results = play(engine, sources, FORMATS[name])  # captures, too
    before = dict(engine.seconds)
    count = plan.frames if size == "1080p" else plan.frames // 3
    repeated = [sources[index % len(sources)] for index in range(count)]
    began = time.perf_counter()
    play(engine, repeated, FORMATS[name], begin=len(sources), results=results)
    wall = time.perf_counter() - began
    busy = {lane: (seconds - before[lane]) / wall for lane, seconds in engine.seconds.items()}
    return {
        "frames": count,
        "fps": round(count / wall, 1),
        "ms_per_frame": round(1e3 * wall / count, 4),
        "busy_share": {lane: round(share, 4) for lane, share in busy.items()},
        "gpu_idle_share": round(1 - busy["compute"], 4),
    }


def changes(report: Report, plan: Plan) -> None:
    """What another strength, and another size, cost the frame that they come with; waited for one by one."""
    streams = WatchedStreams(plan.device)
    engine = make_engine(plan, streams)
    pixel_format = FORMATS["nv12"]

    def timed(size: str, index: int, strength: float) -> tuple[float, int]:
        source = host_frames(pixel_format, plan.sizes[size], 1)
        captured = len(streams.replays)
        began = time.perf_counter()
        (result,) = play(engine, source, pixel_format, begin=index, strength=strength)
        milliseconds = 1e3 * (time.perf_counter() - began)
        if strength == 0 and any(not np.array_equal(*pair) for pair in zip(result, source[0], strict=True)):
            raise RuntimeError("strength 0 isn't the frame itself")
        return round(milliseconds, 3), len(streams.replays) - captured

    def run(size: str, begin: int, strengths: list[float]) -> dict[str, Any]:
        rows = [timed(size, begin + index, strength) for index, strength in enumerate(strengths)]
        return {"ms": [row[0] for row in rows], "captures": [row[1] for row in rows], "strengths": strengths}

    def strength_changes() -> dict[str, Any]:
        run("1080p", 0, [1.0] * 7)  # captures a graph a slot
        result = run("1080p", 10, [1.0, 0.5, 1.0, 0.0, 2.0, 1.0])
        return {"ok": not any(result["captures"]), **result}

    report.attempt("strength", make=strength_changes)
    report.attempt("size", make=lambda: run("720p", 20, [1.0] * 8))
    report.attempt("size back", make=lambda: run("1080p", 30, [1.0] * 8))


def exercise(plan: Plan) -> None:
    """Every kernel on little frames of odd sizes, without graphs, for a memory or race checker."""
    for name in ("nv12", "yuv420p", "p010le") if not plan.rehearsal else ("nv12",):
        engine = make_engine(plan, denoise=0.5, graphs=False)
        size = (75, 133) if not plan.rehearsal else plan.sizes["1080p"]
        play(engine, host_frames(FORMATS[name], size, 3), FORMATS[name])
