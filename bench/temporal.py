"""What smoothing over time does to real clips, for several time constants τ, as one Markdown table.

    python bench/temporal.py [CLIP…] [--smoothing 0 0.1 0.2 …] [--frames 96] [--estimate-every N] [--period 4]

Clips are reduced to 640 pixels and enhanced as videos of 8-bit R'G'B'; scenes made of a clip's first frame, and joints,
have half that size. Every column is a mean over the clips:

drift    the clip in a simulated, drifting backlight with noise (its truth is the clip): PSNR in dB, E_warp × 10³,
         and the root of the mean squared error of MABD × 10³
real     the clip as it is: E_warp × 10³ and MABD × 10³ (rtlit/training/flicker.py)
jitter   its first frame in a simulated backlight, with fresh noise every time: mean change from frame to frame of the
         grid, and of the picture's mean luma, as shares of those of the network unsmoothed on every frame
lag      its first frame darkened by 3 EV within 2 s: how many ms the grid is behind the unsmoothed one (least squares)
cut      joints of any two clips: frames until the grid is within 5 % of that of the second clip played alone, the
         slowest joint, and the share of joints where that is the first frame
trail    somebody black, then somebody white, walks before its first frame in 1.5 s: by how much more the luma of the
         strip that was just uncovered is off, in codes, than that of the strip to be covered next (off the unsmoothed
         output without anybody; the worse of the two)
pan      half of its first frame, moved across it within 2 s: mean difference from the unsmoothed output in codes
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rtlit.enhancer import Enhancer
from rtlit.settings import EnhanceSettings
from rtlit.training.evaluate_video import Steadiness, find_motion, make_enhancer, measure_clip
from rtlit.training.flicker import Clip, Motion, jitter
from rtlit.training.footage import Backlight, Footage, backlit, load_footage, play, reduced
from rtlit.training.metrics import luma

CLIP = Path(__file__).parent.parent / "examples" / "juggler.mp4"
FPS = 24
STILL_FRAMES, HEAD, TAIL = 36, 8, 24
SETTLED = 0.05
Floats = NDArray[np.float64]


@dataclass
class Scenes:
    """Everything that is made of one clip, once for all τ."""

    real: Footage
    drift: Footage
    static: Footage
    ramp: Footage
    walkers: list[Footage]
    pan: Footage
    along: list[Motion] = field(default_factory=list)
    plain: dict[str, NDArray[Any]] = field(default_factory=dict)  # unsmoothed


def still(name: str, pictures: Sequence[NDArray[np.uint8]]) -> Footage:
    """Pictures as a clip of `FPS`."""
    return Footage(name, np.stack(pictures), np.arange(len(pictures)) / FPS)


def make_scenes(path: Path, frames: int, period: float) -> Scenes:
    real = load_footage(path, frames)
    (first,) = reduced(real.frames[:1], 2)
    static = backlit(still("static", [first] * STILL_FRAMES), Backlight(period=1e9))
    scene = static.frames[0]
    walkers = [still("walker", [walk(scene, at, code) for at in np.linspace(0, 1, FPS * 3 // 2)]) for code in (0, 255)]
    pan = still("pan", [window(scene, at) for at in np.linspace(0, 1, 2 * FPS)])
    return Scenes(real, backlit(real, Backlight(period=period)), static, ramp(first), walkers, pan)


def ramp(picture: NDArray[np.uint8]) -> Footage:
    """Half a second as it is, 2 s in which the light falls by 3 EV, a second of that; with noise."""
    ev = -3 * np.clip((np.arange(int(3.5 * FPS)) / FPS - 0.5) / 2, 0, 1)
    light = np.power(picture / 255.0, 2.2) * np.exp2(ev)[:, None, None, None]
    noise = np.random.default_rng(0).standard_normal(light.shape) * np.sqrt(10**-3.5 * light + 10**-7)
    codes = np.power((light + noise).clip(0, 1), 1 / 2.2) * 255
    return still("ramp", list(codes.round().astype(np.uint8)))


def strip(shape: tuple[int, ...], at: float) -> tuple[slice, list[slice]]:
    """The rows that somebody covers at a time 0 … 1, and the columns just uncovered, covered, and covered next."""
    height, width = shape[:2]
    body = width // 7
    left, gap = round(at * (width - body)), body // 10
    ends = [(left - body, left - gap), (left, left + body), (left + body + gap, left + 2 * body)]
    return slice(height // 4, height), [slice(max(0, first), max(0, last)) for first, last in ends]


def walk(picture: NDArray[np.uint8], at: float, code: int) -> NDArray[np.uint8]:
    rows, (_, columns, _) = strip(picture.shape, at)
    result = picture.copy()
    result[rows, columns] = code
    return result


def window(picture: NDArray[np.uint8], at: float) -> NDArray[np.uint8]:
    left = round(at * (picture.shape[1] // 2))
    return picture[:, left : left + picture.shape[1] // 2]


def play_grids(footage: Footage, enhancer: Enhancer) -> tuple[Clip, Floats]:
    """The enhanced frames, and the smoothed grid t that each was lifted by, [T, …]."""
    enhancer.reset()
    frames, found = [], []
    for frame, at in zip(footage.frames, footage.seconds, strict=True):
        frames.append(enhancer(frame, float(at)))
        assert enhancer._state is not None
        found.append(enhancer._state.grid.double().numpy().ravel())
    return np.stack(frames), np.stack(found)


def lag_ms(smoothed: Floats, plain: Floats) -> float:
    """The shift of `plain` in time that comes closest to `smoothed`, in ms."""
    steps = np.arange(0, 1.5, 1 / 240) * FPS
    frames = np.arange(len(plain), dtype=float)

    def distance(shift: float) -> float:
        before = np.maximum(frames - shift, 0)
        low = before.astype(int)
        high, rest = np.minimum(low + 1, len(plain) - 1), (before - low)[:, None]
        return float(np.square(smoothed - (1 - rest) * plain[low] - rest * plain[high]).sum())

    return 1000 / FPS * min(steps, key=distance)


def frames_to_settle(before: Footage, after: Footage, alone: Floats, enhancer: Enhancer) -> int:
    """Frames after the cut until the grid stays within 5 % of that of `after` alone; 1: the first one is right."""
    first, second = before.frames[-HEAD:], after.frames[: len(alone)]
    joined = play_grids(still("joined", [*first, *second]), enhancer)[1][len(first) :]
    off = np.abs(joined - alone).sum(1) > SETTLED * np.abs(alone).sum(1)
    return int(np.flatnonzero(off).max(initial=-1)) + 2 if off.any() else 1


def trail(walker: Clip, alone: NDArray[np.uint8]) -> float:
    """Mean |off behind − off ahead| in codes while somebody is well inside the picture."""
    found = []
    for frame, at in zip(walker, np.linspace(0, 1, len(walker)), strict=True):
        if 0.2 < at < 0.8:
            rows, (behind, _, ahead) = strip(frame.shape, at)
            off = 255 * (luma(frame[rows]) - luma(alone[rows]))
            found.append(abs(off[:, behind].mean(dtype=np.float64) - off[:, ahead].mean(dtype=np.float64)))
    return float(np.mean(found))


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def luma_jitter(clip: Clip) -> float:
    return float(np.abs(np.diff(luma(clip).mean((1, 2), dtype=np.float64))).mean())


def measure_scenes(scenes: Scenes, enhancer: Enhancer) -> dict[str, float]:
    """One τ, one clip; ratios and differences are against the unsmoothed clips in `scenes.plain`."""
    drift = measure_clip(play(scenes.drift, enhancer), scenes.drift, scenes.along)
    real = measure_clip(play(scenes.real, enhancer), scenes.real, scenes.along)
    plain = scenes.plain
    static, found = play_grids(scenes.static, enhancer)
    return _clip_columns(drift, real) | {
        "jitter, grid": jitter(found) / jitter(plain["grids"]),
        "jitter, luma": luma_jitter(static) / luma_jitter(plain["static"]),
        "lag ms": lag_ms(play_grids(scenes.ramp, enhancer)[1], plain["ramp"]),
        "trail": max(trail(play(walker, enhancer), plain["static"][0]) for walker in scenes.walkers),
        "pan": distance(play(scenes.pan, enhancer), plain["pan"]),
    }


def measure_inputs(scenes: Scenes) -> dict[str, float]:
    drift = measure_clip(scenes.drift.frames, scenes.drift, scenes.along)
    return _clip_columns(drift, measure_clip(scenes.real.frames, scenes.real, scenes.along))


def _clip_columns(drift: Steadiness, real: Steadiness) -> dict[str, float]:
    assert drift.psnr is not None and drift.mabd_error is not None
    return {
        "drift PSNR": drift.psnr,
        "drift E_warp": 1e3 * drift.e_warp,
        "drift MABD": 1e3 * drift.mabd_error**0.5,
        "real E_warp": 1e3 * real.e_warp,
        "real MABD": 1e3 * real.mabd,
    }


def prepare(scenes: Scenes, plain: Enhancer, pairs: int) -> None:
    """Motion, and the unsmoothed clips that others are held against."""
    scenes.along = find_motion(scenes.real, pairs)
    static, found = play_grids(scenes.static, plain)
    scenes.plain = {"static": static, "grids": found, "pan": play(scenes.pan, plain)}
    scenes.plain["ramp"] = play_grids(scenes.ramp, plain)[1]


def cuts(scenes: Sequence[Scenes], enhancer: Enhancer) -> dict[str, float]:
    """Every joint of two clips of one size; of a single clip, its mirror image and itself."""
    small = [replace(each.real, frames=reduced(each.real.frames, 2)) for each in scenes]
    joints = [(a, b) for a, b in itertools.permutations(small, 2) if a.frames.shape[1:] == b.frames.shape[1:]]
    only = small[0]
    joints = joints or [(replace(only, frames=only.frames[:, :, ::-1]), only)]
    alone = {b.name: play_grids(still("alone", list(b.frames[:TAIL])), enhancer)[1] for _, b in joints}
    counts = [frames_to_settle(a, b, alone[b.name], enhancer) for a, b in joints]
    return {"cut, worst": max(counts), "cut, at once": sum(count == 1 for count in counts) / len(counts)}


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def report(label: str, row: dict[str, float]) -> None:
    cells = (f"{value:.3g}" if value < 10 else f"{value:.1f}" for value in row.values())
    print("| " + " | ".join([label, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=[CLIP])
    parser.add_argument("--smoothing", nargs="+", type=float, default=[0, 0.1, 0.2, 0.3, 0.5, 0.8], metavar="SECONDS")
    parser.add_argument("--frames", type=int, default=96, help="of each clip")
    parser.add_argument("--pairs", type=int, default=16, help="of frames for E_warp")
    parser.add_argument("--estimate-every", type=int, help="default: what the backend takes")
    parser.add_argument("--period", type=float, default=4.0, help="seconds of the drift")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--each", action="store_true", help="a table of each clip, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = EnhanceSettings(weights=arguments.weights)
    plain = make_enhancer(settings, 0.0, 1)
    scenes = [make_scenes(clip, arguments.frames, arguments.period) for clip in arguments.clips]
    for each in scenes:
        prepare(each, plain, arguments.pairs)
    inputs = [measure_inputs(each) for each in scenes]
    enhancers = {"unsmoothed": plain} | {
        f"{tau:g}": make_enhancer(settings, tau, arguments.estimate_every) for tau in arguments.smoothing
    }
    print(f"{plain.choice.backend.name}; {len(scenes)} clips, {arguments.frames} frames, drift {arguments.period:g} s")
    for number, (label, enhancer) in enumerate(enhancers.items()):
        rows = [measure_scenes(each, enhancer) for each in scenes]
        row = mean(rows) | cuts(scenes, enhancer)
        if not number:
            print("| τ | " + " | ".join(row) + " |\n|" + "---|" * (len(row) + 1))
            report("input", mean(inputs))
        report(label, row)
        if arguments.each:
            for path, of_one in zip(arguments.clips, rows, strict=True):
                report(f"{label} {path.stem}", of_one)


if __name__ == "__main__":
    main()
