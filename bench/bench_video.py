"""enhance_video against a plain PyAV transcode with the same codec settings, and its peak memory.

    pytest bench/bench_video.py                   # also against FFmpeg's nearest filter; decode, enhance, encode alone
    python bench/bench_video.py [--clip FILE] [--rounds 3] [--preset veryfast]
    python bench/bench_video.py --memory          # 1080p, 1080p with 10 times the frames, 4K: minutes

Each run is a process of its own, start and imports included; both sides of a ratio run in turns, and the median of the
rounds counts. FFmpeg's filter that comes nearest is `normalize`: it stretches tones by what it finds in each frame,
smoothed over time, but everywhere alike; it runs between the same decoder and encoder. The ratio of CPU seconds says
what a loaded machine's wall clock can't. The plain transcode decodes and encodes with the threads that FFmpeg takes by
itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.bench_enhancer import check, play  # noqa: E402
from bench.clips import CLIP, scaled  # noqa: E402
from bench.common import DEVICES, SIZES, THREADS, Call, in_turns, planes_and_room  # noqa: E402
from rtlit.enhancer import Enhancer  # noqa: E402

if TYPE_CHECKING:
    import av

MATCH_DB = 25.0  # at strength 0 the output must be this close to the input, or nothing is timed

# Frames go through a filter where one is given.
PLAIN = """
import sys, av, av.filter
preset, source, target, *filters = sys.argv[1:]
with av.open(source) as i, av.open(target, "w", container_options={"movflags": "+faststart"}) as o:
    v = i.streams.video[0]
    v.codec_context.thread_type = "AUTO"
    e = o.add_stream("libx264", rate=v.average_rate, options={"crf": "18", "preset": preset})
    e.width, e.height, e.pix_fmt = v.width, v.height, v.pix_fmt
    e.codec_context.time_base = e.time_base = v.time_base
    graph = av.filter.Graph()
    steps = [graph.add_buffer(template=v), *(graph.add(*f.split("=", 1)) for f in filters), graph.add("buffersink")]
    graph.link_nodes(*steps).configure()
    for frame in i.decode(v):
        if filters:
            graph.push(frame)
            frame = graph.pull()
        frame.pict_type = 0
        o.mux(e.encode(frame))
    o.mux(e.encode(None))
"""
NORMALIZE = ("normalize=smoothing=15", "format=yuv420p")
ENHANCE = """
import json, sys
from rtlit.video.transcode import VideoSettings, enhance_video
strength, preset, source, target = sys.argv[1:]
video = VideoSettings(preset=preset, overwrite=True)
report = enhance_video(source, target, strength=float(strength), video=video)
print(json.dumps(report.to_dict()))
"""


sizes = pytest.mark.parametrize("size", ["720p", "1080p"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A clip of a size and a number of frames, made once."""
    folder = tmp_path_factory.mktemp("clips")
    return cache(lambda size, frames: scaled(CLIP, *SIZES[size][::-1], frames, folder))


@sizes
def test_whole_file(benchmark: BenchmarkFixture, clips: Callable[[str, int], Path], tmp_path: Path, size: str) -> None:
    """Processes of their own, from their start to their end."""
    frames, preset = 600, "veryfast"
    source, target = clips(size, frames), tmp_path / "out.mp4"
    check_files(clips(size, 30), target, 30, preset)
    reports: list[dict[str, Any]] = []

    def enhance() -> None:
        reports.append(json.loads(run(ENHANCE, "1", preset, str(source), str(target))[2]))

    in_turns(
        benchmark,
        enhance,
        {
            "plain transcode": lambda: run(PLAIN, preset, str(source), str(target)),
            "the same with FFmpeg's normalize": lambda: run(PLAIN, preset, str(source), str(target), *NORMALIZE),
        },
        what="enhance_video, x264 veryfast",
        at=f"{size}, {frames} frames",
        units=frames,
        rounds=2,
        warm=False,
        device=DEVICES[-1],  # which "auto" takes
    )
    told = reports[-1]
    assert told["frames"] == frames
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in told["stage_ms"].items())
    benchmark.extra_info["note"] = f"ms a frame: {parts}; peak {told['peak_rss_mb']:.0f} MB"


def check_files(source: Path, target: Path, frames: int, preset: str) -> None:
    """Raises: AssertionError, where one of the three doesn't do what it is timed for."""
    run(ENHANCE, "0", preset, str(source), str(target))
    assert psnr(source, target) >= MATCH_DB
    found = []
    for filters in ((), NORMALIZE):
        run(PLAIN, preset, str(source), str(target), *filters)
        assert len(decode(target)) == frames
        found.append(psnr(source, target))
    assert found[0] >= MATCH_DB and found[1] < found[0] - 0.5, f"normalize changes the picture: {found} dB"


@sizes
@pytest.mark.parametrize("part", ["decode", "enhance", "encode"])
def test_part(
    benchmark: BenchmarkFixture, clips: Callable[[str, int], Path], tmp_path: Path, size: str, part: str
) -> None:
    """One of the three alone, by PyAV and the Enhancer, against the three of a plain transcode in this process."""
    frames = 60
    source, target = clips(size, frames), tmp_path / "out.mp4"
    decoded = decode(source)
    encode(decoded, target)
    assert len(decoded) == len(decode(target)) == frames and psnr(source, target) >= MATCH_DB
    enhancer = Enhancer("cpu", threads=THREADS)
    check(enhancer, decoded, "cpu")
    out, times = [planes_and_room(decoded[0])[1]] * frames, itertools.count()
    calls: dict[str, Call] = {
        "decode": lambda: decode(source),
        "enhance": lambda: play(enhancer, decoded, out, next(times) * frames / 30, 1 / 30),
        "encode": lambda: encode(decoded, target),
    }
    plain: dict[str, Call] = {"plain transcode": lambda: encode(decode(source), target)}
    in_turns(benchmark, calls[part], plain, what=f"{part} alone", at=size, units=frames, rounds=3, device="cpu")


def decode(source: Path) -> list[av.VideoFrame]:
    """All frames, by FFmpeg's own threads."""
    import av

    with av.open(str(source)) as container:
        container.streams.video[0].codec_context.thread_type = "AUTO"
        return list(container.decode(video=0))


def encode(frames: list[av.VideoFrame], target: Path) -> None:
    """By x264 as `PLAIN` does."""
    import av

    with av.open(str(target), "w") as container:
        options = {"crf": "18", "preset": "veryfast"}
        video = container.add_stream("libx264", rate=Fraction(30), options=options)
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        video.codec_context.time_base = video.time_base = Fraction(1, 30)
        for frame in frames:
            frame.pict_type = 0
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def run(code: str, *arguments: str) -> tuple[float, float, str]:
    """(wall-clock seconds, CPU seconds, stdout) of a Python process, interpreter start included."""
    begin, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begin, busy, done.stdout


def psnr(one: Path, other: Path) -> float:
    """Luma PSNR over the first 20 frames."""
    import av
    import numpy as np

    squares = []
    with av.open(str(one)) as a, av.open(str(other)) as b:
        for x, y, _ in zip(a.decode(video=0), b.decode(video=0), range(20), strict=False):
            height = x.height
            difference = x.to_ndarray()[:height].astype(float) - y.to_ndarray()[:height]
            squares.append(float(np.mean(difference**2)))
    return float(10 * np.log10(255**2 / max(1e-9, statistics.mean(squares))))


def speed(clip: Path, rounds: int, preset: str, folder: Path) -> None:
    """Print the ratio at 720p and 1080p, and where the time goes."""
    heads = ("size", "frames", "plain s", "enhance_video s", "ratio", "CPU ratio", "fps", "ms a frame of each stage")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for width, height in ((1280, 720), (1920, 1080)):
        source = scaled(clip, width, height, 600, folder)
        plain, enhanced = folder / "plain.mp4", folder / "enhanced.mp4"
        run(ENHANCE, "0", preset, str(source), str(enhanced))  # also fills the cache of compiled kernels
        if (found := psnr(source, enhanced)) < MATCH_DB:
            sys.exit(f"strength 0 gives {found:.1f} dB against the input: nothing to time")
        runs = [
            (run(PLAIN, preset, str(source), str(plain)), run(ENHANCE, "1", preset, str(source), str(enhanced)))
            for _ in range(rounds)
        ]
        told = json.loads(runs[-1][1][2])
        a, b = (statistics.median(pair[side][0] for pair in runs) for side in (0, 1))
        busy = statistics.median(ours[1] / plains[1] for plains, ours in runs)
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in told["stage_ms"].items())
        cells = (f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}", f"{busy:.2f}", f"{told['fps']:.1f}", stages)
        cells = (f"{height}p", str(told["frames"]), *cells)
        print(f"| {' | '.join(cells)} |", flush=True)


def memory(clip: Path, folder: Path) -> None:
    """Print the peak resident memory of the whole process."""
    print("| size | frames | peak RSS MB |\n|---|---|---|")
    for width, height, frames in ((1920, 1080, 90), (1920, 1080, 900), (3840, 2160, 120)):
        source = scaled(clip, width, height, frames, folder)
        told = json.loads(run(ENHANCE, "1", "veryfast", str(source), str(folder / "out.mp4"))[2])
        print(f"| {width}×{height} | {told['frames']} | {told['peak_rss_mb']:.0f} |", flush=True)
        source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="veryfast", help="libx264's, for both sides")
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    import av
    import torch

    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {load}; PyAV {av.__version__}, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.memory:
            memory(arguments.clip, Path(scratch))
        else:
            speed(arguments.clip, arguments.rounds, arguments.preset, Path(scratch))


if __name__ == "__main__":
    main()
