"""`rtlit evaluate`: brightness and contrast of pictures; PSNR, SSIM and ΔE on pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtlit.commands.options import WholeNumber, enhance_options, examples, needs_train, result_options, sheet_options
from rtlit.settings import Device, EnhanceSettings

if TYPE_CHECKING:
    from rtlit.training.evaluate import Score
    from rtlit.training.metrics import Picture
    from rtlit.training.sheet import Order


@click.command(
    epilog=examples(
        "rtlit evaluate backlit/  looks alone",
        "rtlit evaluate backlit/ truth/ --sheet scores.html --order name",
        "rtlit evaluate good/ good/  what becomes of good pictures",
        "rtlit evaluate in/ gt/ --weights runs/mine/weights.safetensors --json",
    )
)
@click.argument("input_dir", type=click.Path(path_type=Path))
@click.argument("gt_dir", type=click.Path(path_type=Path), required=False)
@enhance_options
@click.option("--filter", "pattern", default="*", metavar="GLOB", help="Only names (without suffix) that match.")
@click.option("--limit", type=WholeNumber(1), metavar="N", help="Only the first N pictures.")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Save the enhanced pictures here.",
)
@sheet_options
@result_options
def evaluate(
    input_dir: Path,
    gt_dir: Path | None,
    strength: float,
    device: Device,
    weights: Path | None,
    threads: int | None,
    pattern: str,
    limit: int | None,
    save: Path | None,
    sheet: Path | None,
    order: Order,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Score the enhancement of the pictures in INPUT_DIR, against those in GT_DIR if given.

    Pictures are matched by file name, reduced to 640 pixels on the longer side and enhanced. With GT_DIR they are
    compared on 8-bit RGB: PSNR (dB), SSIM, mean CIEDE2000 (ΔE) and mean code, each beside the untouched input's.
    Without it: mean luma, RMS contrast, and the shares of pixels with a luma below 32 and above 250, before and
    after. Give the same folder twice to see what becomes of good pictures. --json prints one object with all
    figures: "pictures", a list, and "mean", by group (the word before the first _ of the names).
    """
    settings = EnhanceSettings(device, strength, weights=weights, threads=threads)
    scores = score_folders(input_dir, gt_dir, settings, pattern, limit, save, sheet, order)
    for path in (save, sheet):
        if path and not quiet:
            click.echo(f"saved {path}", err=True)
    (_print_json if as_json else _print_table)(scores)


def score_folders(
    input_dir: Path,
    gt_dir: Path | None,
    settings: EnhanceSettings,
    pattern: str = "*",
    limit: int | None = None,
    save: Path | None = None,
    sheet: Path | None = None,
    order: Order = "worst",
) -> list[Score]:
    """Score the Enhancer on a folder, or on the pairs of two.

    Args:
        pattern: of names, without suffix. limit: only the first so many pictures.
        save: folder for the enhanced pictures. sheet: file for a contact sheet, .html or .png; order: of its rows.

    Raises:
        RtlitError: the extra `train` isn't installed; or as `rtlit.training.evaluate.evaluate` says.
    """
    with needs_train("evaluate"):
        from rtlit.training import evaluate as scoring
        from rtlit.training.sheet import Sheet
    from rtlit.enhancer import Enhancer

    contacts = Sheet(sheet, input_dir.name, order) if sheet else None
    enhancer = Enhancer(settings.device, settings.strength, weights=settings.weights, threads=settings.threads)

    def visit(score: Score, picture: Picture, output: Picture, truth: Picture | None) -> None:
        if save:
            scoring.save_picture(output, save, score.name)
        if contacts:
            shown = {"input": picture, "ours": output} | ({} if truth is None else {"truth": truth})
            contacts.add(score.name, shown, scoring.in_words(score), score.output.psnr if score.output else 0.0)

    scores = scoring.evaluate(input_dir, gt_dir, enhancer, pattern, limit, visit=visit)
    if contacts:
        contacts.write()
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

    columns = _COLUMNS if scores[0].output else _LOOKS
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("picture", max_width=24, overflow="ellipsis", no_wrap=True)
    for header, _, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(score.name, *_cells(columns, as_row(score)))
    table.add_section()
    for name, row in summarize(scores).items():
        table.add_row(f"mean of {row['n']} ({name})", *_cells(columns, row), style="bold")
    Console().print(table)


Columns = tuple[tuple[str, str, str], ...]

# Header, key of `as_row`, format; narrow enough for a terminal of 80 columns.
_COLUMNS: Columns = (
    ("PSNR\nin", "input_psnr", ".2f"),
    ("\nout", "psnr", ".2f"),
    ("SSIM\nin", "input_ssim", ".4f"),
    ("\nout", "ssim", ".4f"),
    ("ΔE\nin", "input_delta_e", ".2f"),
    ("\nout", "delta_e", ".2f"),
    ("mean\nin", "input_brightness", ".2f"),
    ("\nout", "brightness", ".2f"),
    ("\ntruth", "truth_brightness", ".2f"),
)
_LOOKS: Columns = (
    ("luma\nin", "input_luma", ".3f"),
    ("\nout", "luma", ".3f"),
    ("contrast\nin", "input_contrast", ".3f"),
    ("\nout", "contrast", ".3f"),
    ("< 32\nin", "input_dark", ".1%"),
    ("\nout", "dark", ".1%"),
    ("> 250\nin", "input_bright", ".1%"),
    ("\nout", "bright", ".1%"),
)


def _cells(columns: Columns, row: dict[str, float]) -> list[str]:
    return [format(row[key], form) for _, key, form in columns]
