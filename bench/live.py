"""The live preview: latency, frames a second, dropped frames, CPU time and memory, as one Markdown table; or a soak.

    python bench/live.py [--source INPUT] [--size 1280x720 …] [--seconds 30] [--viewer window|web|none] [--json FILE]
    python bench/live.py --soak 30                # minutes; exit code 1 if memory grows

Without --source a real clip plays at 30 fps in each size, decoded in the measured process, which a camera of MJPEG asks
for too. Every row is a process of its own, measured after 5 s of warming up. Latency is from the time that a frame was
due to the time that the viewer said it is shown: the window after SDL's present, the browser's stand-in when it has the
JPEG (without decoding it), "none" when the enhanced frame is there. Without a display the window is on Xvfb where that
is installed, or on SDL's dummy driver. CPU: seconds of all threads in each second, 100 % is one core; the browser's
stand-in and Xvfb are not in it. Memory: resident, at the end.

A soak takes a sample every 10 s. Memory may grow by 16 MB over the time after warming up (a minute, or a third of it),
by the line of least squares: what the allocator keeps of a dozen frames at 720p. A kilobyte lost with each of 30 frames
a second would be 54 MB in half an hour.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.clips import CLIP, scaled  # noqa: E402
from rtlit.errors import RtlitError  # noqa: E402

if TYPE_CHECKING:
    from rtlit.live.pipeline import LiveFrame, LivePipeline

SIZES = ("854x480", "1280x720", "1920x1080")
CLIP_FRAMES = 300
WARM_UP = 5.0
SAMPLE_SECONDS = 10.0
MOST_GROWTH_MB = 16.0


@dataclass(frozen=True)
class Case:
    """What is measured. `sample`: seconds between two samples of a soak, or None."""

    source: str
    loop: bool
    viewer: str
    seconds: float
    device: str
    record: bool
    folder: str
    sample: float | None = None


@dataclass(frozen=True)
class Sample:
    """A soak at one time: `fps` and `latency_ms` (median) are those since the sample before."""

    seconds: float
    rss_mb: float
    fps: float
    latency_ms: float
    longest_gap_ms: float
    dropped: int


@dataclass
class Result:
    """A row of the table."""

    size: str
    viewer: str
    backend: str
    latency_ms: float
    latency_p95_ms: float
    fps_in: float
    fps_out: float
    dropped: int
    enhance_ms: float
    cpu_percent: float
    rss_mb: float
    recorder_dropped: int | None = None
    samples: list[Sample] = field(default_factory=list)


def rss_mb() -> float:
    """Resident memory of this process now; its peak where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(case: Case) -> Result:
    """Run one case in this process, which must be its own."""
    from rtlit.live.pipeline import LivePipeline
    from rtlit.live.recorder import Recorder
    from rtlit.live.source import LiveSource, SourceSettings
    from rtlit.settings import EnhanceSettings

    times, latencies = array("d"), array("d")  # 16 bytes a frame, which a soak doesn't take for a leak

    class Measured(LivePipeline):
        def shown(self, frame: LiveFrame) -> None:
            now = time.monotonic()
            times.append(now)
            latencies.append(now - frame.captured)
            super().shown(frame)

    os.environ["XDG_CONFIG_HOME"] = case.folder  # the window's settings are not the user's
    source = LiveSource(SourceSettings(url=case.source, loop=case.loop))
    pipeline = Measured(source, EnhanceSettings(device=case.device))  # type: ignore[arg-type]
    pipeline.start()
    recorder = Recorder(Path(case.folder) / "live.mp4", overwrite=True) if case.record else None
    if recorder:
        pipeline.add_sink(recorder)
    stop, results = threading.Event(), []

    def watch() -> None:
        try:
            results.append(_watch(case, pipeline, times, latencies))
        finally:
            stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        viewer = _view(case, pipeline, stop)
    finally:
        stop.set()
        pipeline.stop()  # first: where no viewer could be opened, the watcher waits for it
        watcher.join()
    if pipeline.error:
        raise pipeline.error
    if not results:
        raise click.ClickException(f"{case.source}: ended before there was something to measure")
    results[0].viewer = viewer
    results[0].recorder_dropped = recorder.close().dropped if recorder else None
    return results[0]


def run(case: Case) -> Result:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, case).result()


def _watch(case: Case, pipeline: LivePipeline, times: array[float], latencies: array[float]) -> Result:
    """Wait till the picture runs, and take figures of the time after."""
    while not latencies and not pipeline.ended:
        time.sleep(0.05)
    time.sleep(WARM_UP)
    before, spent, begin, first = pipeline.stats, time.process_time(), time.monotonic(), len(latencies)
    samples: list[Sample] = []
    while (left := begin + case.seconds - time.monotonic()) > 0 and not pipeline.ended:
        since = len(latencies)
        time.sleep(min(left, case.sample or left, 1.0 if case.sample is None else math.inf))
        if case.sample and len(latencies) > since + 1:
            samples.append(_sample(time.monotonic() - begin, pipeline, times[since:], latencies[since:]))
    after, seconds = pipeline.stats, time.monotonic() - begin
    sorted_ms = sorted(1000 * latency for latency in latencies[first:]) or [math.nan]
    return Result(
        f"{after.width}×{after.height}",
        case.viewer,
        after.backend,
        statistics.median(sorted_ms),
        sorted_ms[int(0.95 * (len(sorted_ms) - 1))],
        (after.captured - before.captured) / seconds,
        (after.shown - before.shown) / seconds,
        after.dropped - before.dropped,
        after.enhance_ms,
        100 * (time.process_time() - spent) / seconds,
        rss_mb(),
        samples=samples,
    )


def _sample(seconds: float, pipeline: LivePipeline, times: array[float], latencies: array[float]) -> Sample:
    sample = Sample(
        round(seconds, 1),
        round(rss_mb(), 2),
        round((len(times) - 1) / (times[-1] - times[0]), 2),
        round(1000 * statistics.median(latencies), 2),
        round(1000 * float(np.diff(times).max()), 1),
        pipeline.stats.dropped,
    )
    print(json.dumps(asdict(sample)), file=sys.stderr, flush=True)
    return sample


def _view(case: Case, pipeline: LivePipeline, stop: threading.Event) -> str:
    """Show the picture till `stop`; returns what the viewer is called in the table."""
    if case.viewer == "window":
        with display() as name:
            from rtlit.live.preferences import Preferences
            from rtlit.live.recorder import Recorder
            from rtlit.live.window import run_window

            folder = Path(case.folder)
            record = lambda: Recorder(folder / "unused.mp4")  # noqa: E731
            run_window(pipeline, Preferences(), title="bench", snapshots=folder, record=record, stop=stop)
            return f"window, {name}"
    if case.viewer == "web":
        from rtlit.live.web import serve

        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            serve(pipeline, port=0, on_ready=lambda url: pool.submit(browse, url), stop=stop)
        return "web"
    number = 0
    while not (stop.is_set() or pipeline.ended):
        if (frame := pipeline.wait(number, 0.1)) is not None:
            number = frame.number
            pipeline.shown(frame)
    return "none"


@contextmanager
def display() -> Iterator[str]:
    """A display for SDL: the desktop's, Xvfb's, or none that can be seen."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("win32", "darwin"):
        yield "desktop"
    elif xvfb := shutil.which("Xvfb"):
        command = [xvfb, "-displayfd", "1", "-screen", "0", "1920x1080x24", "-nolisten", "tcp"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            os.environ["DISPLAY"] = f":{server.stdout.readline().strip()}"
            try:
                yield "Xvfb"
            finally:
                server.terminate()
    else:
        os.environ["SDL_VIDEODRIVER"] = "dummy"
        yield "dummy"


def browse(url: str) -> None:
    """Stand in for the page: take every picture whole, say so at once, and look for the next."""
    asyncio.run(_browse(url))


async def _browse(url: str) -> None:
    import aiohttp

    origin = "/".join(url.split("/")[:3])
    view = {"width": 1920, "height": 1080, "before": None, "after": [0, 1]}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}live", origin=origin, max_msg_size=0) as socket,
    ):
        await socket.send_json({"view": view})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                (length,) = struct.unpack_from("<I", message.data)
                number = json.loads(message.data[4 : 4 + length])["number"]
                await socket.send_json({"taken": number, "painted": number})


def machine() -> str:
    """What this is measured on, in a line."""
    import av
    import torch

    name = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") if Path("/proc/cpuinfo").exists() else open(os.devnull) as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} CPUs{load}; PyAV {av.__version__}, torch {torch.__version__}"


def table(results: list[Result]) -> str:
    """Markdown."""
    heads = ["size", "viewer", "latency ms", "95 %", "fps in", "fps out", "dropped", "enhance ms", "CPU %", "MB"]
    recorded = any(result.recorder_dropped is not None for result in results)
    rows = [heads + ["recorder dropped"] * recorded]
    for result in results:
        latencies = f"{result.latency_ms:.1f}", f"{result.latency_p95_ms:.1f}"
        rates = f"{result.fps_in:.1f}", f"{result.fps_out:.1f}", str(result.dropped), f"{result.enhance_ms:.1f}"
        cells = [result.size, result.viewer, *latencies, *rates, f"{result.cpu_percent:.0f}", f"{result.rss_mb:.0f}"]
        rows.append(cells + [str(result.recorder_dropped)] * recorded)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|---|---|{'---:|' * (len(rows[0]) - 2)}", *lines[1:]])


def slope(samples: list[Sample], name: str) -> float:
    """What grows in a second, by the line of least squares."""
    return float(
        np.polyfit([sample.seconds for sample in samples], [getattr(sample, name) for sample in samples], 1)[0]
    )


def judge(samples: list[Sample]) -> tuple[str, bool]:
    """(the soak in a few lines, whether memory grew too much), without the time of warming up."""
    length = samples[-1].seconds if samples else 0.0
    settled = [sample for sample in samples if sample.seconds >= min(60.0, length / 3)]
    if len(settled) < 3:
        raise click.ClickException(f"a soak of {length:.0f} s has too few samples; make it longer")
    seconds = settled[-1].seconds - settled[0].seconds
    grown, drift = slope(settled, "rss_mb") * seconds, slope(settled, "latency_ms") * seconds
    rates, gaps = [sample.fps for sample in settled], [sample.longest_gap_ms for sample in settled]
    lines = [
        f"{seconds / 60:.1f} minutes, {len(settled)} samples",
        f"memory: {settled[0].rss_mb:.1f} → {settled[-1].rss_mb:.1f} MB; {grown:+.2f} MB by least squares",
        f"latency: {settled[0].latency_ms:.1f} → {settled[-1].latency_ms:.1f} ms; {drift:+.2f} ms by least squares",
        f"pace: {min(rates):.2f} to {max(rates):.2f} fps; longest gap {max(gaps):.0f} ms, "
        f"median of the longest {statistics.median(gaps):.0f} ms",
        f"dropped: {settled[-1].dropped - settled[0].dropped} frames",
    ]
    return "\n".join(lines), grown > MOST_GROWTH_MB


def make_cases(
    source: str | None,
    sizes: tuple[str, ...],
    viewer: str,
    seconds: float,
    device: str,
    record: bool,
    folder: Path,
    sample: float | None,
) -> list[Case]:
    """A case for the source as it is, or for the clip in each size."""
    if source is not None:
        return [Case(source, Path(source).is_file(), viewer, seconds, device, record, str(folder), sample)]
    sides = [tuple(int(side) for side in size.split("x")) for size in sizes]
    clips = [scaled(CLIP, width, height, CLIP_FRAMES, folder) for width, height in sides]
    return [Case(str(clip), True, viewer, seconds, device, record, str(folder), sample) for clip in clips]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--source", help="anything FFmpeg opens; the clip in each --size if not given")
@click.option("--size", "sizes", multiple=True, help="of the clip; 854x480, 1280x720 and 1920x1080 if not given")
@click.option("--seconds", default=30.0, help="of measuring")
@click.option("--viewer", type=click.Choice(["window", "web", "none"]), default="window")
@click.option("--device", default="auto")
@click.option("--record", is_flag=True, help="record meanwhile")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the figures to FILE too")
@click.option("--soak", type=float, metavar="MINUTES", help="memory, latency and pace over so long, at 1280x720")
@click.pass_context
def main(ctx: click.Context, soak: float | None, json_file: Path | None, **options: Any) -> None:
    """Measure the live preview."""
    options["sizes"] = options["sizes"] or (("1280x720",) if soak else SIZES)
    options["seconds"] = 60 * soak if soak else options["seconds"]
    head, results = machine(), []
    with tempfile.TemporaryDirectory() as scratch:
        for case in make_cases(**options, folder=Path(scratch), sample=SAMPLE_SECONDS if soak else None):
            try:
                results.append(run(case))
            except RtlitError as error:
                raise click.ClickException(str(error)) from None
    if json_file:
        json_file.write_text(json.dumps({"machine": head, "results": [asdict(result) for result in results]}, indent=1))
    print(f"{head}; {results[0].backend}\n\n{table(results)}")
    if soak:
        verdicts = [judge(result.samples) for result in results]
        print("\n" + "\n\n".join(text for text, _ in verdicts))
        if any(grew for _, grew in verdicts):
            print(f"\nmemory grew by more than {MOST_GROWTH_MB:.0f} MB", file=sys.stderr)
            ctx.exit(1)


if __name__ == "__main__":
    main()
