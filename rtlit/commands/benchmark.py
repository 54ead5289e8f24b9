"""rtlit benchmark"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rtlit.commands.batch import unwinding
from rtlit.commands.options import ENCODERS, Number, device_option, examples, reports, threads_option, words

if TYPE_CHECKING:
    from rtlit.benchmark.machine import Machine
    from rtlit.benchmark.measure import Speed

_SIZES = ("480p", "720p", "1080p", "4K")
_QUICK_SIZES, _QUICK_SECONDS = ("720p", "1080p"), 0.5


@click.command(
    epilog=examples(
        "rtlit benchmark",
        "rtlit benchmark --quick",
        "rtlit benchmark --size 1080p --device cpu --seconds 5",
        "rtlit benchmark --codec h264_nvenc --json > here.json",
    )
)
@click.option("--quick", is_flag=True, help=f"Measure {' and '.join(_QUICK_SIZES)} for half a second each.")
@click.option("--size", "sizes", type=click.Choice(_SIZES), multiple=True, help="Only this size; may be repeated.")
@device_option("What to measure; auto is the CPU, and CUDA if it is there.")
@click.option(
    "--seconds",
    type=Number(0, 60, min_open=True),
    metavar="NUMBER",
    help="For each measurement, up to 60.  [default: 2]",
)
@threads_option
@click.option(
    "--codec",
    metavar="NAME",
    shell_complete=words(*ENCODERS),
    help="Encoder of the video, as FFmpeg names it.  [default: libx264]",
)
@reports("Print a JSON object on stdout: machine, results, verdict, line.")
def benchmark(
    quick: bool,
    sizes: tuple[str, ...],
    device: Any,
    seconds: float | None,
    threads: int | None,
    codec: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say how fast rtlit is on this machine, in about a minute.

    A made scene is enhanced by itself, as from a camera (MJPEG decoded and enhanced, not shown) and as a whole video
    (decoded, enhanced, encoded as enhance-video does it): frames a second, what takes the largest share of a video's
    time, and the most memory so far. The first frame of each size is compared with the reference before anything is
    timed. The last line is for a bug report. Close other programs first: they share the cores.
    """
    from rtlit.benchmark.machine import Machine
    from rtlit.benchmark.measure import measure
    from rtlit.benchmark.report import line, verdict

    machine = Machine.this()
    if machine.busy and not quiet:
        click.echo(f"warning: other programs are at work (load {machine.load:.1f}); the figures will be low", err=True)
    wanted = [size for size in _SIZES if size in sizes] or list(_QUICK_SIZES if quick else _SIZES)
    with unwinding(), _steps(quiet) as on_step:
        length = seconds or (_QUICK_SECONDS if quick else 2.0)
        speeds = list(measure(wanted, device, length, threads=threads, codec=codec, on_step=on_step))
    if as_json:
        import json

        told = {"machine": machine.to_dict(), "results": [speed.to_dict() for speed in speeds]}
        click.echo(json.dumps({**told, "verdict": verdict(speeds), "line": line(machine, speeds)}, indent=2))
        return
    _print_table(machine, speeds)
    click.echo(f"\n{verdict(speeds)}\n\nFor a bug report:\n{line(machine, speeds)}")


@contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Tells on stderr what is being measured, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def _print_table(machine: Machine, speeds: list[Speed]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from rtlit.benchmark.report import NAMES

    click.echo(f"{machine}\n")
    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD if console.is_terminal else None)
    headers = ["size", "on", "enhance\nfps", "live\nfps", "video\nfps", "limit of\na video", "memory\nMB"]
    with_gpu = any(speed.peak_gpu_mb for speed in speeds)
    for header in [*headers, *(["GPU's\nMB"] if with_gpu else [])]:
        table.add_column(header, justify="left" if header in ("size", "on") else "right", no_wrap=True)
    for speed in speeds:
        rates = (f"{rate:.1f}" for rate in (speed.enhance_fps, speed.live_fps, speed.video_fps))
        limit = f"{speed.limit} {speed.shares[speed.limit]:.0%}"
        memory = (f"{speed.peak_rss_mb:.0f}", *([f"{speed.peak_gpu_mb:.0f}"] if with_gpu else []))
        table.add_row(speed.size, NAMES[speed.device], *rates, limit, *memory)
    console.print(table)
