"""How time and memory grow with pixels, frames and threads: measured into one JSON file, and drawn from it as SVG.

    python bench/scaling.py --measure docs/images/scaling.json            # some minutes; --quick tries it out in one
    python bench/scaling.py --plot docs/images/scaling.json docs/images   # scaling-pixels.svg -memory.svg -threads.svg

Each measurement is a process of its own, and frames are those of a real clip. Beside each curve is its floor: for the
Enhancer a copy of the same planes by numpy, which reads and writes what it has to; for whole videos a transcode by
PyAV alone with the same encoder, in a process of its own as well. Times are medians; those of videos are taken after
their first tenth, without the start of the process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.clips import CLIP, scaled  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRESET = "veryfast"
_BUSY = 0.5  # load, before anything of this runs
FRAMES = 8  # that an Enhancer gets in a row
# Lines and letters of medium lightness: 3 : 1 or more against white and against GitHub's dark #0d1117.
GREY, BLUE, ORANGE, GREEN, PURPLE = "#7a7a7a", "#3b82e0", "#d1700f", "#2b9a4a", "#9a6ae8"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        frames: of the videos of each size (a quarter of it at 4K).
        long_frames: of the one that shows how memory grows with length.
        seconds: of measuring an Enhancer.
    """

    sizes: tuple[str, ...] = ("360p", "720p", "1080p", "4K")
    frames: int = 200
    long_frames: int = 2400
    seconds: float = 2.0


QUICK = Plan(("360p", "720p"), 40, 240, 0.5)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything that is drawn."""
    from bench.common import SIZES, THREADS

    result: dict[str, Any] = {"machine": machine(), "pixels": [], "threads": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in plan.sizes:
            height, width = SIZES[size]
            frames = plan.frames // 4 if size == "4K" else plan.frames
            source = apart(scaled, CLIP, width, height, frames, Path(folder))
            row = {"size": size, "megapixels": height * width / 1e6, **apart(enhancer, size, THREADS, plan.seconds)}
            for name, run in {"plain": plain, "video": enhanced}.items():
                samples = apart(run, source, Path(folder) / "out.mp4")
                row |= {f"{name}_ms": pace(samples), f"{name}_peak_mb": max(each[2] for each in samples)}
            result["pixels"].append(row)
            say(row)
        size = plan.sizes[1]
        source = apart(scaled, CLIP, *SIZES[size][::-1], plan.long_frames, Path(folder))
        length = {run.__name__: thinned(apart(run, source, Path(folder) / "out.mp4")) for run in (plain, enhanced)}
        result["length"] = {"size": size, "frames": plan.long_frames, **length}
        say({name: f"{samples[0][2]:.0f} → {samples[-1][2]:.0f} MB" for name, samples in length.items()})
    for size in plan.sizes[-2:]:
        for threads in sorted({*range(1, min(4, THREADS) + 1), THREADS}):
            result["threads"].append({"size": size, "threads": threads, **apart(enhancer, size, threads, plan.seconds)})
            say(result["threads"][-1])
    return result


def say(row: dict[str, Any]) -> None:
    told = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
    print(*(f"{key} {value}" for key, value in told.items()), sep=", ", file=sys.stderr, flush=True)


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """A call in a fresh process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def enhancer(size: str, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds a frame of the Enhancer, without and with denoising, and of a copy of the frame, in turns."""
    from itertools import count

    from bench.bench_enhancer import check, play
    from bench.common import copying, planes_and_room, real_frames
    from rtlit.avframe import planes_of
    from rtlit.enhancer import Enhancer

    frames = real_frames(size, "yuv420p", FRAMES)
    out = [planes_and_room(frame)[1] for frame in frames]
    copies = [copying(planes_of(frame)) for frame in frames]
    plain, denoise = (Enhancer("cpu", threads=threads, denoise=amount) for amount in (0.0, 0.5))
    for each in (plain, denoise):
        check(each, frames, "cpu")
    number = count()
    calls: dict[str, Callable[[], object]] = {
        "enhancer_ms": lambda: play(plain, frames, out, next(number) * FRAMES / 30, 1 / 30),
        "denoise_ms": lambda: play(denoise, frames, out, next(number) * FRAMES / 30, 1 / 30),
        "copy_ms": lambda: [copy() for copy in copies],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times["copy_ms"]) < 4:
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - before) / FRAMES)
    # The first round is there to warm up.
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def enhanced(source: Path, target: Path) -> list[tuple[int, float, float]]:
    """What `enhance_video` has done and taken by and by: frames, seconds, MB of memory."""
    from rtlit.video.transcode import Progress, VideoSettings, enhance_video

    samples = []

    def note(progress: Progress) -> None:
        samples.append((progress.frames, time.perf_counter(), rss_mb()))

    report = enhance_video(source, target, video=VideoSettings(preset=PRESET, overwrite=True), on_progress=note)
    samples.append((report.frames, time.perf_counter(), rss_mb()))
    return samples


def plain(source: Path, target: Path) -> list[tuple[int, float, float]]:
    """The same of a transcode by PyAV alone."""
    import av

    samples = []
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        video = container.streams.video[0]
        video.codec_context.thread_type = "AUTO"
        coded = output.add_stream("libx264", rate=video.average_rate, options={"crf": "18", "preset": PRESET})
        coded.width, coded.height, coded.pix_fmt = video.width, video.height, video.pix_fmt
        coded.codec_context.time_base = coded.time_base = Fraction(video.time_base or 0)
        for index, frame in enumerate(container.decode(video)):
            frame.pict_type = 0
            output.mux(coded.encode(frame))
            if index % 10 == 9:
                samples.append((index + 1, time.perf_counter(), rss_mb()))
        output.mux(coded.encode(None))
        samples.append((index + 1, time.perf_counter(), rss_mb()))
    return samples


def rss_mb() -> float:
    """Resident memory now; its peak where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def thinned(samples: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """About a hundred of them, the last among these; seconds since the first."""
    chosen = [*samples[:-1][:: max(1, len(samples) // 100)], samples[-1]]
    return [(frames, round(at - samples[0][1], 2), round(memory, 1)) for frames, at, memory in chosen]


def pace(samples: list[tuple[int, float, float]]) -> float:
    """Milliseconds a frame after the first tenth."""
    frames, end, _ = samples[-1]
    first, begin, _ = next(each for each in samples if each[0] >= frames / 10)
    return 1e3 * (end - begin) / (frames - first)


def machine() -> dict[str, Any]:
    import av
    import torch

    from rtlit.backends.choose import available_threads

    names = [line for line in _cpu_lines() if line.startswith("model name")]
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine(),
        "cores": available_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "pyav": av.__version__,
    }


def _cpu_lines() -> list[str]:
    about = Path("/proc/cpuinfo")
    return about.read_text().splitlines() if about.exists() else []


def plot(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured as SVG files, for light pages and dark ones alike."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titlecolor": GREY,
        "axes.titlelocation": "left",
        "grid.color": GREY,
        "grid.alpha": 0.2,
        "legend.frameon": False,
        "lines.marker": "o",
        "font.size": 12,
        "svg.fonttype": "path",
        "svg.hashsalt": "rtlit",  # the same file from the same numbers
    }
    about = found["machine"]
    caption = f"{about['cpu']}, {about['cores']} cores; torch {about['torch']}, PyAV {about['pyav']}"
    if (about.get("load") or 0) > _BUSY:
        caption += f"; measured while other programs ran (load {about['load']})"
    paths = []
    with matplotlib.rc_context(style):
        for name, draw in {"pixels": draw_pixels, "memory": draw_memory, "threads": draw_threads}.items():
            figure = Figure(figsize=(10, 4.6), layout="constrained")
            draw(figure.subplots(1, 2), found)
            figure.supxlabel(caption, fontsize=9, color=GREY)
            paths.append(folder / f"scaling-{name}.svg")
            figure.savefig(paths[-1], transparent=True, metadata={"Date": None, "Creator": None})
    return paths


def draw_pixels(axes: Any, found: dict[str, Any]) -> None:
    """Milliseconds a frame against megapixels: the Enhancer, and whole videos."""
    rows = found["pixels"]
    lines = [
        {"denoise_ms": ("with denoising", ORANGE), "enhancer_ms": ("Enhancer", BLUE)},
        {"video_ms": ("enhance_video", GREEN)},
    ]
    floors = [("copy_ms", "floor: copy of the frame"), ("plain_ms", "floor: decode and encode alone")]
    titles = ["Enhancement alone", f"Whole videos (x264 {PRESET})"]
    for panel, kinds, (key, floor), title in zip(axes, lines, floors, titles, strict=True):
        for name, (label, color) in kinds.items():
            panel.loglog(*against(rows, "megapixels", name), color=color, label=label)
        panel.loglog(*against(rows, "megapixels", key), color=GREY, linestyle="--", label=floor)
        for fps in (30, 60):
            panel.axhline(1e3 / fps, color=PURPLE, linewidth=1, linestyle=":", marker="")
            panel.text(rows[-1]["megapixels"], 1e3 / fps, f"{fps} fps", color=PURPLE, va="bottom", ha="right", size=10)
        panel.set(title=title, ylabel="milliseconds a frame")
        sizes_below(panel, rows)
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        panel.legend(loc="upper left")


def draw_memory(axes: Any, found: dict[str, Any]) -> None:
    """Megabytes against megapixels, and against the frames done so far."""
    rows, length = found["pixels"], found["length"]
    axes[0].plot(*against(rows, "megapixels", "video_peak_mb"), color=GREEN, label="enhance_video")
    floor = "floor: decode and encode alone"
    axes[0].plot(*against(rows, "megapixels", "plain_peak_mb"), color=GREY, linestyle="--", label=floor)
    axes[0].set(title="Peak memory", ylabel="MB resident", xlim=(0, 1.05 * rows[-1]["megapixels"]))
    names = [("\n" if index % 2 else "") + row["size"] for index, row in enumerate(rows)]  # the small ones are close
    axes[0].set_xticks([row["megapixels"] for row in rows], names, fontsize=10)
    for name, color, style, label in (
        ("enhanced", GREEN, "-", "enhance_video"),
        ("plain", GREY, "--", floor),
    ):
        frames, _, memory = zip(*length[name][:-1], strict=True)  # without the one after everything was given back
        axes[1].plot(frames, memory, color=color, linestyle=style, label=label, marker="")
    for panel in axes:
        panel.set_ylim(0, 1.35 * panel.get_ylim()[1])
    axes[1].set(title=f"Memory over a video of {length['size']}", xlabel="frames done", xlim=(0, None))
    axes[0].legend(loc="upper left")


def draw_threads(axes: Any, found: dict[str, Any]) -> None:
    """Milliseconds a frame against threads, for the largest two sizes."""
    sizes = list(dict.fromkeys(row["size"] for row in found["threads"]))
    for panel, size in zip(axes, sizes, strict=True):
        rows = [row for row in found["threads"] if row["size"] == size]
        threads = [row["threads"] for row in rows]
        for key, label, color in (("denoise_ms", "with denoising", ORANGE), ("enhancer_ms", "Enhancer", BLUE)):
            panel.plot(threads, [row[key] for row in rows], color=color, label=label)
        shared = [rows[0]["enhancer_ms"] / count for count in threads]
        panel.plot(threads, shared, color=BLUE, linestyle=":", marker="", label="Enhancer, shared out perfectly")
        copies = [row["copy_ms"] for row in rows]
        panel.plot(threads, copies, color=GREY, linestyle="--", label="floor: copy of the frame, 1 thread")
        panel.set(title=size, ylabel="milliseconds a frame", xlabel="threads", xticks=threads)
        panel.set_ylim(0, 1.5 * panel.get_ylim()[1])
    axes[0].legend(loc="upper right", fontsize=10)


def against(rows: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [row[x] for row in rows], [row[y] for row in rows]


def sizes_below(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Names of sizes in place of megapixels, and plain numbers upwards."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xticks([row["megapixels"] for row in rows], [row["size"] for row in rows])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two sizes and short videos, to try it out")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("FILE", "FOLDER"))
    given = parser.parse_args()
    if not given.measure and not given.plot:
        parser.error("--measure FILE, --plot FILE FOLDER, or both")
    if given.measure:
        found = measure(QUICK if given.quick else Plan())
        text = re.sub(
            r"\[\s+([^][{}]*?)\s+\]", lambda each: f"[{' '.join(each[1].split())}]", json.dumps(found, indent=1)
        )
        given.measure.write_text(text + "\n")  # a sample a line
    if given.plot:
        for path in plot(json.loads(given.plot[0].read_text()), given.plot[1]):
            print(path)


if __name__ == "__main__":
    main()
