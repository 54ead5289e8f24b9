"""rtlit enhance-video"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtlit.commands.batch import PIPE, Job, Kind, Talk, check_signals, open_stream, plan, run_batch
from rtlit.commands.options import (
    ENCODERS,
    Number,
    enhance_options,
    examples,
    key_value,
    output_options,
    report_options,
    seconds,
    time_options,
    words,
)

if TYPE_CHECKING:
    from rtlit.settings import EnhanceSettings
    from rtlit.video.settings import Progress, VideoReport, VideoSettings

# In folders these are taken, and an error if they can't be read; others where FFmpeg finds a video in them.
SUFFIXES = frozenset(
    (".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v")
    + (".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm")
    + (".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m")
)
# Where FFmpeg's name of a container isn't its suffix.
_SUFFIX_OF = {"matroska": ".mkv", "yuv4mpegpipe": ".y4m", "mpegts": ".ts"}


@click.command(
    "enhance-video",
    epilog=examples(
        "rtlit enhance-video backlit.mp4  writes backlit.enhanced.mp4",
        "rtlit enhance-video in.mov -o out.mp4 --strength 0.7",
        "rtlit enhance-video clips/ -r --output-dir out/  again: goes on where it was",
        "rtlit enhance-video 'clips/*.mkv' --json > reports.jsonl",
        "rtlit enhance-video in.mp4 --start 1:30 --duration 10 --compare",
        "rtlit enhance-video in.mp4 --codec libx265 --crf 20 -e x265-params=aq-mode=3",
        "rtlit enhance-video dim.mp4 --denoise 0.5 --ten-bit --codec libx265",
        "ffmpeg -i in.avi -f yuv4mpegpipe - | rtlit enhance-video - --format y4m > x",
    ),
)
@output_options
@enhance_options
@time_options
@click.option(
    "--codec",
    metavar="NAME",
    shell_complete=words(*ENCODERS),
    help="Encoder, as FFmpeg names it (libx264, libx265, h264_nvenc, ffv1).  [default: the input's family]",
)
@click.option(
    "--crf",
    type=Number(0),
    metavar="NUMBER",
    help="Quality in the encoder's scale; lower is better.  [default: 18 for libx264 and libx265]",
)
@click.option(
    "--preset",
    metavar="NAME",
    shell_complete=words(
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
    ),
    help="The encoder's speed preset (ultrafast … veryslow).  [default: veryfast for libx264]",
)
@click.option(
    "-e", "options", multiple=True, type=key_value, metavar="KEY=VALUE", help="Any encoder option; may be repeated."
)
@click.option(
    "--ten-bit", is_flag=True, help="Store 10 bits a sample: smoother lifted shadows; libx265 plays more widely."
)
@click.option(
    "--start", type=seconds, default="0", metavar="TIME", help="Where to begin: 90 (seconds), 1:30, 0:01:30.5."
)
@click.option("--duration", type=seconds, metavar="TIME", help="How much to take.  [default: all]")
@click.option(
    "--hwaccel",
    type=click.Choice(["auto", "none", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to decode: none is software, cuda NVDEC; auto takes NVDEC where the GPU enhances.",
)
@click.option("--compare", is_flag=True, help="Put before and after side by side.")
@click.option(
    "--format",
    "output_format",
    metavar="NAME",
    shell_complete=words("mp4", "mkv", "mov", "webm", "ts", "avi", "y4m"),
    help="Container (mp4, mkv, y4m).  [default: by the result's name]",
)
@report_options
def enhance_video(
    inputs: tuple[str, ...],
    output: str | None,
    output_dir: str | None,
    recursive: bool,
    overwrite: bool,
    strength: float,
    device: Any,
    weights: Path | None,
    threads: int | None,
    smoothing: float,
    estimate_every: int | None,
    denoise: float,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **video: Any,
) -> None:
    """Enhance backlit or under-exposed videos; everything else in the files stays as it was.

    INPUT is a file, a folder, a glob in quotes, or - for standard input. Results are named INPUT.enhanced.SUFFIX;
    those of folders and of several inputs that exist are skipped.
    """
    from rtlit.settings import EnhanceSettings
    from rtlit.video import probe
    from rtlit.video.formats import output_suffix
    from rtlit.video.settings import VideoSettings

    kind = Kind("videos", SUFFIXES, probe.holds_video)
    form = (video["output_format"] or "").lower().removeprefix(".")
    suffix = _SUFFIX_OF.get(form, f".{form}") if form else None
    batch = plan(inputs, output, output_dir, recursive, kind, lambda path: suffix or output_suffix(path))
    to_stdout = any(job.target == PIPE for job in batch.jobs)
    talk = Talk(quiet, verbose, as_json, json_to_stderr=to_stdout)
    enhance = EnhanceSettings(device, strength, smoothing, estimate_every, weights, threads, denoise)
    settings = VideoSettings(overwrite=overwrite, **video)
    sys.exit(run_batch(batch, overwrite, talk, lambda job: _enhance(job, enhance, settings, talk)))


def _enhance(job: Job, enhance: EnhanceSettings, settings: VideoSettings, talk: Talk) -> None:
    from rtlit.video.transcode import enhance_video as transcode

    with _progress(job, talk) as on_progress:
        report = transcode(
            open_stream(job.source, "stdin"),
            open_stream(job.target, "stdout"),
            settings=enhance,
            video=settings,
            on_progress=on_progress,
            on_warning=lambda text: talk.warn(job.name, text),
        )
    talk.say(_summary(job, report))
    if talk.verbose:
        talk.say(_details(report))
    talk.report(report.to_dict())


def _summary(job: Job, report: VideoReport) -> str:
    speed = f"{report.frames} frames in {report.wall_seconds:.1f} s ({report.fps:.1f} fps)"
    decoder = "" if report.decoder == "software" else f", decoded by {report.decoder}"
    return f"{job.name} → {job.target_name}: {speed}{decoder}"


def _details(report: VideoReport) -> str:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in report.stage_ms.items())
    codecs = f"{report.input_codec} ({report.decoder}) → {report.encoder}"
    return (
        f"  {report.width}×{report.height} {report.pixel_format}, {codecs}\n"
        f"  backend {report.backend}: {report.backend_reason}\n"
        f"  ms a frame: {stages}; peak memory {report.peak_rss_mb:.0f} MB"
    )


@contextmanager
def _progress(job: Job, talk: Talk) -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar with fps and the time left, on stderr where that is a terminal."""
    if talk.quiet or not sys.stderr.isatty():
        yield lambda progress: check_signals()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(job.source).name, total=None, fps=0.0)

        def show(progress: Progress) -> None:
            check_signals()
            total = progress.frames_total or progress.seconds_total
            done = progress.frames if progress.frames_total else progress.seconds_done
            bar.update(task, completed=done, total=total, fps=progress.fps)

        yield show
