"""`rtlit train supervised`: curves from photographs in simulated bad light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtlit.commands.options import Number, WholeNumber, examples, result_options
from rtlit.commands.train import photos_options, require_extra, run_options
from rtlit.errors import UsageError

if TYPE_CHECKING:
    from rtlit.training.supervised import SupervisedSettings, TrainingStep


@click.command(
    epilog=examples(
        "rtlit train supervised photos/ -o runs/mine",
        "rtlit train supervised photos/ more/ -o runs/big --width 96 --thumbnail 192",
        "rtlit train supervised photos/ -o runs/mine --resume",
        "rtlit enhance-video in.mp4 --weights runs/mine/weights.safetensors",
    )
)
@photos_options
@click.option("--iterations", type=WholeNumber(1), metavar="N", help="Length of the run.  [default: 7000]")
@click.option("--batch", type=WholeNumber(1), metavar="N", help="Pictures an iteration.  [default: 16]")
@click.option(
    "--learning-rate", type=Number(), metavar="NUMBER", help="Peak of the one-cycle schedule.  [default: 0.002]"
)
@click.option(
    "--squared",
    type=Number(),
    metavar="NUMBER",
    help="Weight of the squared error beside the absolute one.  [default: 4]",
)
@click.option(
    "--relative",
    type=Number(),
    metavar="NUMBER",
    help="Weight of the logarithm of each picture's error.  [default: 0.02]",
)
@click.option(
    "--thumbnail",
    type=WholeNumber(),
    metavar="N",
    help="Longer side of the thumbnail, a multiple of 8.  [default: 128]",
)
@click.option("--width", type=WholeNumber(), metavar="N", help="Features of the network.  [default: 64]")
@click.option("--bfloat16", is_flag=True, default=None, help="Compute in bfloat16: faster on CPUs with AMX.")
@click.option(
    "--settings", "file", type=click.Path(path_type=Path), metavar="FILE", help="settings.json of a run, to repeat it."
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Weights to start from, instead of random ones; the mean of several.",
)
@run_options
@result_options
def supervised(
    photos: tuple[Path, ...],
    run: Path,
    iterations: int | None,
    batch: int | None,
    learning_rate: float | None,
    squared: float | None,
    relative: float | None,
    thumbnail: int | None,
    width: int | None,
    bfloat16: bool | None,
    file: Path | None,
    init: tuple[Path, ...],
    seed: int | None,
    threads: int | None,
    every: int,
    resume: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Learn to undo bad light that is simulated on PHOTOS, folders of well-lit photographs.

    The run's folder gets settings.json, log.jsonl, checkpoint.pt and weights.safetensors, which --weights of
    the other commands takes. Ctrl-C loses what came after the last checkpoint; --resume goes on from it.
    """
    given = {"iterations": iterations, "batch": batch, "learning_rate": learning_rate}
    given |= {"squared": squared, "relative": relative, "bfloat16": bfloat16, "seed": seed}
    given |= {"thumbnail": thumbnail, "width": width}
    given = {name: value for name, value in given.items() if value is not None}
    if resume and (given or init or file):
        names = (*given, *(name for name, value in (("init", init), ("settings", file)) if value))
        raise UsageError(f"--resume keeps the run's settings; leave out {', '.join('--' + name for name in names)}")
    if file and given:
        raise UsageError(f"--settings holds {', '.join(given)} already; leave out one or the other")
    require_extra()
    import torch

    from rtlit.network import NetworkConfig
    from rtlit.training.supervised import SupervisedSettings, read_settings, train_supervised

    if threads:
        torch.set_num_threads(threads)
    settings: SupervisedSettings | None = None
    if not resume:
        sizes = {name: given.pop(name) for name in ("thumbnail", "width") if name in given}
        network = NetworkConfig(**sizes)  # type: ignore[arg-type]
        settings = read_settings(file) if file else SupervisedSettings(network=network, **given)  # type: ignore[arg-type]

    def tell(step: TrainingStep) -> None:
        remaining = (step.iterations - step.iteration) * step.seconds / every
        if not quiet:
            click.echo(
                f"{step.iteration}/{step.iterations} loss {step.loss:.4f}, {every / step.seconds:.1f} it/s, "
                f"{remaining / 60:.0f} min left",
                err=True,
            )

    weights = train_supervised(photos, run, settings, init=init, resume=resume, every=every, on_step=tell)
    if as_json:
        import json

        click.echo(json.dumps({"run": str(run), "weights": str(weights)}))
    elif not quiet:
        click.echo(f"weights: {weights}", err=True)
