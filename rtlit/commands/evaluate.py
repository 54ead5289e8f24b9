"""`rtlit evaluate`: PSNR, SSIM and ΔE on pairs of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtlit.commands.options import enhance_options, report_options
from rtlit.errors import RtlitError
from rtlit.settings import Device, EnhanceSettings

if TYPE_CHECKING:
    from rtlit.training.evaluate import Score


@click.command()
@click.argument("input_dir", type=click.Path(path_type=Path))
@click.argument("gt_dir", type=click.Path(path_type=Path))
@enhance_options
@click.option("--filter", "pattern", default="*", metavar="GLOB", help="Only names (without suffix) that match.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pairs.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Save outputs and a contact sheet.")
@report_options
def evaluate(
    input_dir: Path,
    gt_dir: Path,
    strength: float,
    device: Device,
    weights: Path | None,
    threads: int | None,
    pattern: str,
    limit: int | None,
    save: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Score the enhancement of INPUT_DIR against GT_DIR.

    Pictures are matched by file name, reduced to 640 pixels on the longer side, enhanced, and compared on
    8-bit RGB: PSNR (dB), SSIM, mean CIEDE2000 (ΔE) and brightness, each beside the untouched input's.
    Give the same folder twice to see what becomes of good pictures. --json prints one object: "pictures", a
    list, and "mean", by group (the word before the first _ of the names).
    """
    settings = EnhanceSettings(device, strength, weights=weights, threads=threads)
    scores = score_folders(input_dir, gt_dir, settings, pattern, limit, save)
    if save and not quiet:
        click.echo(f"saved {save / 'contact-sheet.png'}", err=True)
    (_print_json if as_json else _print_table)(scores)


def score_folders(
    input_dir: Path,
    gt_dir: Path,
    settings: EnhanceSettings,
    pattern: str = "*",
    limit: int | None = None,
    save: Path | None = None,
) -> list[Score]:
    """Score the Enhancer on the pairs of two folders.

    Args:
        pattern: of names, without suffix. limit: only the first so many pairs.
        save: folder for outputs and `contact-sheet.png`.

    Raises:
        RtlitError: the extra `train` isn't installed; or as `rtlit.training.evaluate.evaluate` says.
    """
    try:
        from rtlit.training import evaluate as scoring
    except ModuleNotFoundError as error:
        raise RtlitError(f"evaluate needs {error.name}: pip install 'rtlit[train]'") from None
    from rtlit.enhancer import Enhancer

    enhancer = Enhancer(settings.device, settings.strength, weights=settings.weights, threads=settings.threads)
    sheet = scoring.ContactSheet(save) if save else None
    scores = scoring.evaluate(input_dir, gt_dir, enhancer, pattern, limit, visit=sheet.add if sheet else None)
    if sheet:
        sheet.write()
    return scores


def _print_json(scores: list[Score]) -> None:
    import json

    from rtlit.training.evaluate import as_row, summarize

    pictures = [{"name": score.name, "group": score.group, **as_row(score)} for score in scores]
    click.echo(json.dumps({"pictures": pictures, "mean": summarize(scores)}, indent=2))


def _print_table(scores: list[Score]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from rtlit.training.evaluate import as_row, summarize

    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("picture", max_width=24, overflow="ellipsis", no_wrap=True)
    for header, _, _ in _COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(score.name, *_cells(as_row(score)))
    table.add_section()
    for name, row in summarize(scores).items():
        table.add_row(f"mean of {row['n']} ({name})", *_cells(row), style="bold")
    Console().print(table)


# Header, key of `as_row`, decimals; narrow enough for a terminal of 80 columns.
_COLUMNS = (
    ("PSNR\nin", "input_psnr", 2),
    ("\nout", "psnr", 2),
    ("SSIM\nin", "input_ssim", 4),
    ("\nout", "ssim", 4),
    ("ΔE\nin", "input_delta_e", 2),
    ("\nout", "delta_e", 2),
    ("mean\nin", "input_brightness", 2),
    ("\nout", "brightness", 2),
    ("\ntruth", "truth_brightness", 2),
)


def _cells(row: dict[str, float]) -> list[str]:
    return [f"{row[key]:.{decimals}f}" for _, key, decimals in _COLUMNS]
