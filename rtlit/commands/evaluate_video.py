"""`rtlit evaluate-video`: flicker of enhanced clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtlit.commands.options import (
    WholeNumber,
    enhance_options,
    examples,
    needs_train,
    report_options,
    sheet_options,
    time_options,
)
from rtlit.settings import Device, EnhanceSettings

if TYPE_CHECKING:
    from rtlit.training.evaluate_video import ClipScore
    from rtlit.training.flicker import Clip
    from rtlit.training.footage import Footage
    from rtlit.training.sheet import Order, Sheet


@click.command(
    "evaluate-video",
    epilog=examples(
        "rtlit evaluate-video backlit.mp4",
        "rtlit evaluate-video clips/*.mp4 --frames 60 --sheet steady.html",
        "rtlit evaluate-video good.mp4 --simulate --seed 3 --json",
    ),
)
@click.argument("clips", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CLIP...")
@enhance_options
@time_options
@click.option("--simulate", is_flag=True, help="Put the clips into a simulated, drifting backlight first.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the simulated light.")
@click.option("--frames", type=WholeNumber(2), default=120, show_default=True, help="Only the first N.", metavar="N")
@click.option(
    "--pairs", type=WholeNumber(1), default=24, show_default=True, help="Pairs of frames for E_warp.", metavar="N"
)
@sheet_options
@report_options
def evaluate_video(
    clips: tuple[Path, ...],
    strength: float,
    device: Device,
    weights: Path | None,
    threads: int | None,
    smoothing: float,
    estimate_every: int | None,
    denoise: float,
    simulate: bool,
    seed: int,
    frames: int,
    pairs: int,
    sheet: Path | None,
    order: Order,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Score how steady enhanced clips are, beside the input and the network without smoothing over time.

    E_warp is the squared difference of consecutive frames along the motion, MABD the mean absolute difference of
    consecutive frames' brightness, jitter the mean change of the lift (in log-odds) of a 9×16th of the picture from
    frame to frame, which should be none in a static scene. With --simulate the clip is the truth: PSNR (dB), too.
    """
    settings = EnhanceSettings(device, strength, smoothing, estimate_every, weights, threads, denoise)
    with needs_train("evaluate-video"):
        from rtlit.training.evaluate_video import score_clip
        from rtlit.training.footage import Backlight, backlit, load_footage
        from rtlit.training.sheet import Sheet

    contacts = Sheet(sheet, "rtlit evaluate-video", order) if sheet else None
    scores = []
    for clip in clips:
        footage = load_footage(clip, frames, lambda text, clip=clip: click.echo(f"{clip}: {text}", err=True))  # type: ignore[misc]
        footage = backlit(footage, Backlight(seed)) if simulate else footage
        versions: dict[str, Clip] = {}
        scores.append(score_clip(footage, settings, pairs, versions.update))
        if contacts:
            _add_rows(contacts, footage, scores[-1], versions)
        if as_json:
            _print_json(scores[-1])
    if contacts:
        contacts.write()
        if not quiet:
            click.echo(f"saved {sheet}", err=True)
    if not as_json:
        _print_table(scores)


def _add_rows(sheet: Sheet, footage: Footage, score: ClipScore, versions: dict[str, Clip]) -> None:
    """Five frames from the beginning to the end."""
    last = len(footage.frames) - 1
    for index in sorted({last * i // 4 for i in range(5)}):
        pictures = {name: clip[index] for name, clip in versions.items()}
        words = ", ".join(f"E_warp ×10³ {1e3 * each.e_warp:.2f} {name}" for name, each in score.versions.items())
        name = f"{footage.name} at {footage.seconds[index]:06.2f} s"
        sheet.add(name, pictures, words, score.versions["ours"].psnr or 0.0)


def _print_json(score: ClipScore) -> None:
    import json

    click.echo(json.dumps(score.to_dict()))


def _print_table(scores: list[ClipScore]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("clip", max_width=26, overflow="ellipsis", no_wrap=True)
    table.add_column("", no_wrap=True)
    for header in ("E_warp\n×10³", "MABD\n×10³", "jitter\n×10³", "PSNR\ndB"):
        table.add_column(header, justify="right", no_wrap=True)
    for score in scores:
        for index, (name, each) in enumerate(score.versions.items()):
            gain = "" if each.gain_jitter is None else f"{1e3 * each.gain_jitter:.2f}"
            psnr = "" if each.psnr is None else f"{each.psnr:.2f}"
            figures = f"{1e3 * each.e_warp:.3f}", f"{1e3 * each.mabd:.2f}", gain, psnr
            table.add_row("" if index else score.clip, name, *figures)
        table.add_section()
    Console().print(table)
