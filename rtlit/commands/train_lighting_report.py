"""`rtlit train lighting-report`: how well the compact CLIP tells light."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rtlit.commands.options import WholeNumber, examples, result_options, threads_option
from rtlit.commands.train import require_extra


@click.command(
    "lighting-report",
    epilog=examples(
        "rtlit train lighting-report photos/",
        "rtlit train lighting-report photos/ backlit/ dim/ --leave-out 'night_*'",
    ),
)
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("sets", nargs=-1, type=click.Path(path_type=Path), metavar="[BADLY_LIT]...")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A run's lighting-clip.safetensors; else the shipped.",
)
@click.option("--leave-out", multiple=True, metavar="GLOB", help="Names (without suffix) that don't count; repeatable.")
@click.option("--held-out", type=WholeNumber(2), default=5, show_default=True, metavar="N", help="As in training.")
@threads_option
@result_options
def lighting_report(
    photos: Path,
    sets: tuple[Path, ...],
    weights: Path | None,
    leave_out: tuple[str, ...],
    held_out: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Score the compact CLIP on photographs of PHOTOS that training left out, and on folders of BADLY_LIT pictures.

    P(backlit) of each folder against that of the photographs (AUC, accuracy), and of the photographs from −4 to +2 EV.
    """
    require_extra()
    import torch

    from rtlit.training.lighting import load_lighting
    from rtlit.training.lighting_report import report

    if threads:
        torch.set_num_threads(threads)
    result = report(load_lighting(weights), photos, sets, held_out, leave_out)
    if as_json:
        import json

        click.echo(json.dumps(result, indent=2))
    else:
        _print(result)


_COLUMNS = ("ev", "backlit", "dark", "brightness")


def _print(result: dict[str, Any]) -> None:
    held, light = result.pop("held_out"), result.pop("exposure")
    click.echo(f"{held['pictures']} photographs held out: mean P(backlit) {held['mean']:.3f}")
    for folder, row in result.items():
        numbers = "mean P(backlit) {mean:.3f}, AUC {auc:.3f}, recall {recall:.1%}, accuracy {accuracy:.1%}"
        for name, scores in ((folder, row), *row["groups"].items()):
            click.echo(f"{name} ({scores['pictures']}): {numbers.format(**scores)}")
    for ev, p, dark, brightness in zip(*(light[key] for key in _COLUMNS), strict=True):
        click.echo(f"{ev:+.1f} EV: P(backlit) {p:.3f}, P(dark) {dark:.3f}, cos(over) − cos(under) {brightness:+.3f}")
    click.echo(f"half-stop steps that raise it: {light['rising']:.1%}; rank correlation: {light['spearman']:.4f}")
