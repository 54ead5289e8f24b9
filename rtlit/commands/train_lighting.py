"""`rtlit train lighting`: train the compact CLIP that knows light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtlit.commands.options import WholeNumber, examples, result_options
from rtlit.commands.train import photos_options, require_extra, run_options
from rtlit.errors import UsageError

if TYPE_CHECKING:
    from rtlit.training.lighting import LightingStep


@click.command(
    epilog=examples(
        "rtlit train lighting photos/ -o runs/light",
        "rtlit train lighting photos/ -o runs/light --resume",
        "rtlit train lighting-report photos/ --weights lighting-clip.safetensors",
    )
)
@photos_options
@click.option("--iterations", type=WholeNumber(1), metavar="N", help="Length of the run.  [default: 2000]")
@click.option(
    "--batch", type=WholeNumber(8), metavar="N", help="Pictures an iteration, a multiple of 4.  [default: 64]"
)
@click.option("--held-out", type=WholeNumber(0), metavar="N", help="Leave out one photograph in so many.  [default: 5]")
@click.option("--bfloat16", is_flag=True, help="Towers in bfloat16: faster on CPUs that have it.")
@run_options
@result_options
def lighting(
    photos: tuple[Path, ...],
    run: Path,
    iterations: int | None,
    batch: int | None,
    held_out: int | None,
    bfloat16: bool,
    seed: int | None,
    threads: int | None,
    every: int,
    resume: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Train a compact CLIP on PHOTOS, folders of well-lit photographs, in simulated light with captions about it.

    The run's folder gets settings.json, log.jsonl, checkpoint.pt and lighting-clip.safetensors; `rtlit train
    lighting-report` says how well it tells light. Ctrl-C loses what came after the last checkpoint; --resume goes on
    from it.
    """
    given: dict[str, Any] = {"iterations": iterations, "batch": batch, "held_out": held_out, "seed": seed}
    given |= {"bfloat16": True if bfloat16 else None}
    given = {name: value for name, value in given.items() if value is not None}
    if resume and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"--resume keeps the run's settings; leave out {names}")
    require_extra()
    import torch

    from rtlit.training.lighting import LightingSettings, train_lighting

    if threads:
        torch.set_num_threads(threads)
    settings = None if resume else LightingSettings(**given)

    def tell(step: LightingStep) -> None:
        if not quiet:
            click.echo(
                f"{step.iteration}/{step.iterations} loss {step.loss:.4f}, own caption nearest {step.accuracy:.1%}, "
                f"{step.seconds_left / 60:.0f} min left",
                err=True,
            )

    weights = train_lighting(photos, run, settings, resume=resume, every=every, on_step=tell)
    if as_json:
        import json

        click.echo(json.dumps({"run": str(run), "weights": str(weights)}))
    elif not quiet:
        click.echo(f"weights: {weights}", err=True)
