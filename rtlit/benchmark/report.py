"""What the figures come to, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rtlit.benchmark.machine import Machine
from rtlit.benchmark.measure import Speed
from rtlit.benchmark.scene import FPS

NAMES = {"cpu": "CPU", "cuda": "CUDA"}


def verdict(speeds: Sequence[Speed]) -> str:
    """Sentences: up to which size a camera can be followed, and how long files take, on the fastest device."""
    fastest = {}
    for speed in sorted(speeds, key=lambda speed: speed.live_fps):
        fastest[speed.size] = speed
    by_size = sorted(fastest.values(), key=lambda speed: speed.height, reverse=True)
    best = next((speed for speed in by_size if speed.live_fps >= FPS), None)
    too_slow = [f"{speed.size}{FPS} no ({speed.live_fps:.3g} fps)" for speed in by_size if speed.live_fps < FPS]
    if best is None:
        live = f"live: {', '.join(too_slow)}; try a smaller --size or --max-height of `rtlit webcam`"
    else:
        spare = f"yes, with {1 - FPS / best.live_fps:.0%} of the time to spare"
        live = f"{best.size}{FPS} live on {NAMES[best.device]}: {'; '.join([spare, *too_slow])}"
    sizes = {}
    for speed in sorted(speeds, key=lambda speed: speed.video_fps):
        sizes[speed.size] = f"{speed.size} {_minutes(FPS / speed.video_fps)}"
    files = ", ".join(sizes[speed.size] for speed in by_size)
    return f"{live}. A minute of {FPS} fps video takes: {files}."


def line(machine: Machine, speeds: Sequence[Speed]) -> str:
    """Everything on one line, to paste into a bug report."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    rates = [
        f"{NAMES[speed.device]} {speed.size} {speed.enhance_fps:.0f}/{speed.live_fps:.0f}/{speed.video_fps:.0f} "
        f"({speed.encoder}; {', '.join(f'{part} {share:.0%}' for part, share in speed.shares.items())})"
        for speed in speeds
    ]
    peak = max(speed.peak_rss_mb for speed in speeds)
    return f"{versions}; {machine.system}; {machine}; fps enhance/live/video: {'; '.join(rates)}; peak {peak:.0f} MB"


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
