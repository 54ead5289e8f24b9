"""`rtlit train clip`: enhancers that CLIP guides, from two folders of unpaired photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtlit.commands.options import (
    CLIPS,
    Number,
    WholeNumber,
    device_option,
    examples,
    result_options,
    threads_option,
    words,
)
from rtlit.commands.train import require_extra
from rtlit.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from rtlit.training.clip_lit import Progress
    from rtlit.training.presets import ClipLitSettings, RunSettings

_FOLDER = click.Path(path_type=Path)
_PRESETS = ("clip-lit", "fast", "small")
_GUIDANCES = ("prompts", "latent", "residual")
_ENHANCERS = ("curves", "clip-lit-unet")


@click.command(
    "clip",
    epilog=examples(
        "rtlit train backlit/ well-lit/ -o run --clip rtlit-lighting --preset small",
        "rtlit train backlit/ well-lit/ -o runs/paper --enhancer clip-lit-unet",
        "rtlit train clip --preset fast --show-preset > mine.json",
        "rtlit train backlit/ well-lit/ -o runs/mine --settings mine.json",
        "rtlit train clip --resume -o runs/clip",
        "torchrun --nproc-per-node 2 -m rtlit train backlit/ well-lit/ -o run",
    ),
)
@click.argument("folders", nargs=-1, type=_FOLDER, metavar="BACKLIT WELL_LIT")
@click.option("-o", "--run", type=_FOLDER, metavar="FOLDER", help="Folder of the run; made.")
@click.option(
    "--preset", type=click.Choice(_PRESETS), help="The paper's; for an hour of a GPU; for a CPU.  [default: clip-lit]"
)
@click.option("--settings", type=_FOLDER, metavar="FILE", help="What --show-preset printed, edited, for a preset.")
@click.option(
    "--clip",
    "clip_name",
    metavar="NAME",
    shell_complete=words(*CLIPS),
    help="Of open_clip, or rtlit-lighting.  [default: ViT-B-32]",
)
@click.option("--clip-weights", metavar="WEIGHTS", help="A tag of open_clip, a file, or random.  [default: openai]")
@click.option(
    "--identity",
    metavar="NAME",
    help="CLIP with a ResNet: is it still the same picture?  [default: RN101; rtlit-lighting with it as --clip]",
)
@click.option("--identity-weights", metavar="WEIGHTS", help="As --clip-weights.  [default: openai]")
@click.option("--guidance", type=click.Choice(_GUIDANCES), help="CLIP-LIT, CLIP-LIT-Latent, RAVE.  [default: prompts]")
@click.option("--enhancer", type=click.Choice(_ENHANCERS), help="What learns.  [default: curves]")
@click.option("--init", type=_FOLDER, metavar="FILE", help="Weights that the enhancer starts from.")
@click.option(
    "--iterations", type=WholeNumber(1), metavar="N", help="Budget of all stages together.  [default: the preset's]"
)
@click.option(
    "--size", type=WholeNumber(16), metavar="N", help="The enhancer trains on pictures of N×N pixels, 16 or more."
)
@click.option("--batch", type=WholeNumber(1), metavar="N", help="Pictures an iteration of the enhancer.")
@click.option("--learning-rate", type=Number(), metavar="NUMBER", help="Of the enhancer.")
@click.option("--seed", type=int, metavar="N", help="Of weights and of every draw.  [default: 0]")
@click.option("--every", type=WholeNumber(1), metavar="N", help="Iterations between checkpoints.  [default: 100]")
@device_option("Where to compute; several GPUs: torchrun --nproc-per-node N -m rtlit train ….")
@threads_option
@click.option("--resume", is_flag=True, help="Go on with the run in -o, with its settings.")
@click.option("--export", type=_FOLDER, metavar="FILE", help="Also write the weights here, for --weights.")
@click.option("--show-preset", is_flag=True, help="Print the procedure that the options lead to, and stop.")
@result_options
def clip(
    folders: tuple[Path, ...],
    run: Path | None,
    device: str,
    threads: int | None,
    resume: bool,
    export: Path | None,
    show_preset: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Learn from photographs in BACKLIT and others in WELL_LIT what well-lit is, and how to make it.

    CLIP-LIT's procedure: prompts learn to tell the two folders apart, guide the enhancer, and are refined in turns
    with it. The run's folder gets settings, logs, sample sheets, checkpoint.pt, prompts.safetensors, and
    weights.safetensors, which --weights of other commands takes. Ctrl-C saves; `--resume -o RUN` goes on.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _check(folders, run, resume, show_preset, given)
    if show_preset:
        click.echo(json.dumps(asdict(_procedure(given)), indent=2))
        return
    assert run is not None
    if export:
        _check_export(export)
    require_extra()
    import torch

    from rtlit.training.clip_lit import train_clip_lit

    if threads:
        torch.set_num_threads(threads)
    settings = None if resume else _settings(*folders, **given)
    try:
        with _reporter(quiet) as report:
            weights = train_clip_lit(run, settings, device=device, on_progress=report)
    except Interrupted as interruption:
        raise Interrupted(f"{interruption}; go on with: rtlit train clip --resume -o {run}") from None
    _finish(weights, export, run, as_json, quiet)


def _check(folders: tuple[Path, ...], run: Path | None, resume: bool, show: bool, given: dict[str, Any]) -> None:
    if "preset" in given and "settings" in given:
        raise UsageError("--settings holds what a preset does; leave out --preset")
    if show:
        return
    if run is None:
        raise UsageError("a run needs a folder: give -o RUN")
    if resume and (folders or given):
        names = ["the folders"] * bool(folders) + ["--" + each.replace("_", "-") for each in given]
        raise UsageError(f"--resume keeps the run's own settings; leave out {', '.join(names)}")
    if not resume and len(folders) != 2:
        raise UsageError(f"give two folders, BACKLIT and WELL_LIT, not {len(folders)}")


def _settings(backlit: Path, well_lit: Path, **given: Any) -> RunSettings:
    """Settings of a new run; paths are made absolute, so that it can be resumed from anywhere."""
    from rtlit.training.presets import RunSettings

    names = ("seed", "every", "guidance", "enhancer")
    rest = {name: given[name] for name in names if name in given} | _models(given)
    if "init" in given:
        rest["init"] = str(given["init"].absolute())
    return RunSettings(str(backlit.absolute()), str(well_lit.absolute()), procedure=_procedure(given), **rest)


def _procedure(given: dict[str, Any]) -> ClipLitSettings:
    """The preset, or the file, with what is given besides."""
    from rtlit.training.presets import preset, read_procedure

    if "settings" in given:
        procedure = read_procedure(given["settings"])
    else:
        kinds = {name: given[name] for name in ("guidance", "enhancer") if name in given}
        procedure = preset(given.get("preset", "clip-lit"), **kinds)
    changes = {name: given[name] for name in ("size", "batch", "learning_rate") if name in given}
    procedure = replace(procedure, enhancer=replace(procedure.enhancer, **changes))
    return replace(procedure, iterations=given.get("iterations", procedure.iterations))


def _models(given: dict[str, Any]) -> dict[str, Any]:
    """Which CLIPs; the compact one and random weights are for both unless said otherwise."""
    names = ("clip_weights", "identity", "identity_weights")
    found: dict[str, Any] = {name: given[name] for name in names if name in given}
    if "clip_name" in given:
        found["clip"] = given["clip_name"]
    if found.get("clip") == "rtlit-lighting":
        found.setdefault("identity", "rtlit-lighting")
    if found.get("clip_weights") == "random" and found.get("identity") != "rtlit-lighting":
        found.setdefault("identity_weights", "random")
    for name in ("clip_weights", "identity_weights"):
        if name in found and Path(found[name]).is_file():
            found[name] = str(Path(found[name]).absolute())
    return found


def _check_export(path: Path) -> None:
    """Before hours of training, not after."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--export {path}: give a file name in a folder that exists")


def _reporter(quiet: bool) -> AbstractContextManager[Callable[[Progress], None] | None]:
    """Tells people how far it is: a bar on a terminal, else a line each time."""
    import sys

    if quiet:
        return nullcontext()
    return _Bar() if sys.stderr.isatty() else nullcontext(lambda each: click.echo(_line(each), err=True))


class _Bar(AbstractContextManager[Any]):
    """rich's progress bar, under the lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as RichProgress, TextColumn

        name, left = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
        self._bar = RichProgress(name, BarColumn(), MofNCompleteColumn(), left, console=Console(stderr=True))
        self._task = self._bar.add_task("starting", total=None, left="")

    def __enter__(self) -> Callable[[Progress], None]:
        self._bar.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _show(self, progress: Progress) -> None:
        self._bar.console.print(_line(progress), highlight=False, soft_wrap=True)
        left = f"{_duration(progress.seconds_left)} left"
        name = f"{progress.stage} {progress.round or ''}"
        self._bar.update(
            self._task, total=progress.iterations, completed=progress.iteration, description=name, left=left
        )


def _line(progress: Progress) -> str:
    round = f" {progress.round}" if progress.round else ""
    terms = ", ".join(f"{name} {value:.4g}" for name, value in progress.terms.items())
    speed = f"{progress.its_per_second:.3g} it/s, {_duration(progress.seconds_left)} left"
    return f"{progress.iteration}/{progress.iterations} {progress.stage}{round}: {terms}; {speed}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes == 0:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _finish(weights: Path, export: Path | None, run: Path, as_json: bool, quiet: bool) -> None:
    import os

    if int(os.environ.get("RANK", 0)):
        return
    prompts = run / "prompts.safetensors"
    if export:
        from rtlit.training.runs import copy_file

        copy_file(weights, export)
    if as_json:
        result = {"run": run, "weights": weights, "prompts": prompts} | ({"export": export} if export else {})
        click.echo(json.dumps({name: str(path) for name, path in result.items()}))
    elif not quiet:
        click.echo(f"weights: {export or weights}", err=True)
