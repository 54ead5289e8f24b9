"""`rtlit prompts`: what learned prompts say of pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtlit.commands import describe
from rtlit.commands.batch import PIPE, expand, json_line
from rtlit.commands.enhance_image import PICTURES
from rtlit.commands.options import CLIPS, FILE, device_option, examples, report_options, threads_option, words
from rtlit.commands.train import require_extra
from rtlit.errors import RtlitError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from rtlit.training.guidance import Guidance

_BATCH = 16


@click.group()
def prompts() -> None:
    """Score pictures with learned prompts."""


@prompts.command(
    short_help="Print P(backlit) of pictures.",
    epilog=examples(
        "rtlit prompts score *.jpg",
        "rtlit prompts score photos/ -r | sort -r  the most backlit first",
        "rtlit prompts score photos/ --run runs/clip --json",
    ),
)
@click.argument("images", nargs=-1, required=True, type=FILE, metavar="IMAGE...")
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of a run of `rtlit train clip`, with its prompts.",
)
@click.option(
    "--prompts",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A file of learned prompts (safetensors).  [default: the shipped ones]",
)
@click.option(
    "--clip",
    "name",
    metavar="NAME",
    shell_complete=words(*CLIPS),
    help="The CLIP they were learned with, if under another name.",
)
@click.option("--clip-weights", metavar="WEIGHTS", help="Its weights, if elsewhere: a tag of open_clip or a file.")
@click.option("-r", "--recursive", is_flag=True, help="Look into the subfolders of folders, too.")
@device_option("Where to compute; auto takes CUDA where torch finds it.")
@threads_option
@report_options
def score(
    images: tuple[str, ...],
    run: Path | None,
    file: Path | None,
    name: str | None,
    clip_weights: str | None,
    recursive: bool,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Print P(backlit) of each IMAGE: a file, a folder or a glob in quotes.

    0 is as well-lit as can be, 1 as backlit, as the prompts see it that a run learned: a number to compare pictures
    by, not one to trust alone. A line holds the probability and the name.
    """
    path = prompts_file(run, file)
    paths, errors = _find(images, recursive)
    require_extra()
    import torch

    from rtlit.training.guidance import load_guidance
    from rtlit.training.ranks import join

    if threads:
        torch.set_num_threads(threads)
    guidance = load_guidance(path, device=join(device)[1], name=name, weights=clip_weights)
    if verbose:
        clip = guidance.clip
        click.echo(f"{path}: {guidance.kind} of {clip.name} ({clip.weights}), on {clip.device}", err=True)
    for image, result in (*errors, *score_pictures(paths, guidance)):
        if isinstance(result, RtlitError):
            errors = [*errors, (image, result)]
        _print(image, result, as_json)
    sys.exit(1 if errors else 0)


def prompts_file(run: Path | None, file: Path | None) -> Path:
    """The prompts of a run, a file of them, or those that ship with rtlit.

    Raises:
        UsageError: both are given, or neither and none ship.
    """
    from rtlit import weights as shipped
    from rtlit.errors import InputError

    if run is not None and file is not None:
        raise UsageError("--run and --prompts can't be used together")
    if file is not None:
        return file
    if run is None:
        if shipped.PROMPTS.name in shipped.SHIPPED:
            return shipped.PROMPTS
        raise UsageError("no prompts ship with this version; give --run RUN or --prompts FILE")
    if not (run / "prompts.safetensors").is_file():
        raise InputError(f"{run}: no prompts.safetensors in it; give the folder of a run of `rtlit train clip`")
    return run / "prompts.safetensors"


def score_pictures(paths: Sequence[str], guidance: Guidance) -> Iterator[tuple[str, float | RtlitError]]:
    """P(backlit) of picture files, or why there is none, in order; stretched to 256², as `rtlit train clip` does."""
    from rtlit.training.presets import PromptStages
    from rtlit.training.unpaired import decode_square

    for start in range(0, len(paths), _BATCH):
        results: dict[str, Tensor | RtlitError] = {}
        for name in paths[start : start + _BATCH]:
            try:
                results[name] = decode_square(Path(name), PromptStages().size)
            except RtlitError as error:
                results[name] = error
        yield from _score(results, guidance)


def _score(pictures: dict[str, Tensor | RtlitError], guidance: Guidance) -> Iterator[tuple[str, float | RtlitError]]:
    import torch

    tensors = [each for each in pictures.values() if isinstance(each, torch.Tensor)]
    probabilities: Iterator[float] = iter(())
    if tensors:
        with torch.inference_mode():
            batch = torch.stack(tensors).to(guidance.clip.device).float() / 255
            probabilities = iter(guidance.probability(guidance.clip.encode_image(batch)).tolist())
    for name, each in pictures.items():
        yield name, each if isinstance(each, RtlitError) else next(probabilities)


def _find(images: Sequence[str], recursive: bool) -> tuple[list[str], list[tuple[str, RtlitError]]]:
    if PIPE in images:
        raise UsageError("standard input can't be scored; give a file")
    found: dict[str, None] = {}
    errors: list[tuple[str, RtlitError]] = []

    def note(line: str) -> None:
        click.echo(line, err=True)

    for text in images:
        try:
            found |= dict.fromkeys(name for name, _ in expand(text, recursive, PICTURES, "score", note))
        except RtlitError as error:
            errors.append((text, error))
    return list(found), errors


def _print(name: str, result: float | RtlitError, as_json: bool) -> None:
    if isinstance(result, RtlitError):
        message, _ = describe(result)
        click.echo(message, err=True)
        if as_json:
            click.echo(json_line({"input": name, "error": message.removeprefix("rtlit: ")}))
    elif as_json:
        click.echo(json_line({"input": name, "p_backlit": round(result, 6)}))
    else:
        click.echo(f"{result:.4f}  {name}")
