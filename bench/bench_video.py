"""enhance_video against a plain PyAV transcode with the same codec settings, and its peak memory.

    python bench/bench_video.py [--clip FILE] [--rounds 3] [--preset veryfast]
    python bench/bench_video.py --memory          # 1080p, 1080p with 10 times the frames, 4K: minutes

Each run is a process of its own, start and imports included; both sides of a ratio run in turns, and the median of the
rounds counts. The ratio of CPU seconds says what a loaded machine's wall clock can't. The plain transcode decodes
and encodes with the threads that FFmpeg takes by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

CLIP = Path(__file__).parent.parent / "examples" / "juggler.mp4"
MATCH_DB = 25.0  # at strength 0 the output must be this close to the input, or nothing is timed

PLAIN = """
import sys, av
preset, source, target = sys.argv[1:]
with av.open(source) as i, av.open(target, "w", container_options={"movflags": "+faststart"}) as o:
    v = i.streams.video[0]
    v.codec_context.thread_type = "AUTO"
    e = o.add_stream("libx264", rate=v.average_rate, options={"crf": "18", "preset": preset})
    e.width, e.height, e.pix_fmt = v.width, v.height, v.pix_fmt
    e.codec_context.time_base = e.time_base = v.time_base
    for frame in i.decode(v):
        frame.pict_type = 0
        o.mux(e.encode(frame))
    o.mux(e.encode(None))
"""
ENHANCE = """
import json, sys
from rtlit.video.transcode import VideoSettings, enhance_video
strength, preset, source, target = sys.argv[1:]
video = VideoSettings(preset=preset, overwrite=True)
report = enhance_video(source, target, strength=float(strength), video=video)
print(json.dumps(report.to_dict()))
"""


def scaled(clip: Path, width: int, height: int, frames: int, folder: Path) -> Path:
    """A clip of the given size and length made from a real one, which it repeats if need be."""
    import av

    result = folder / f"{width}x{height}x{frames}.mp4"
    with av.open(str(result), "w") as output:
        video = output.add_stream("libx264", rate=Fraction(30), options={"crf": "23", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        done = 0
        while done < frames:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    if done == frames:
                        break
                    picture = frame.reformat(width, height, "yuv420p", interpolation="FAST_BILINEAR")
                    picture.pts, picture.time_base, picture.pict_type = done, Fraction(1, 30), 0
                    output.mux(video.encode(picture))
                    done += 1
        output.mux(video.encode(None))
    return result


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
