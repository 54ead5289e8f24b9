"""Options and types of values that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from rtlit.commands import VERBOSE
from rtlit.errors import RtlitError
from rtlit.settings import MAX_STRENGTH, EnhanceSettings

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range, called so in messages."""

    name = "number"


class WholeNumber(click.IntRange):
    """A whole number in a range, called so in messages."""

    name = "whole number"


_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def seconds(text: str) -> float:
    """A time: seconds ("90", "1.5") or H:MM:SS.ms ("1:30", "0:01:30.25")."""
    match = _TIME.fullmatch(text.strip())
    if match is None or (match[2] and float(match[3]) >= 60) or (match[1] and int(match[2]) >= 60):
        raise click.BadParameter(f"{text!r} is not a time; give seconds (90) or H:MM:SS.ms (0:01:30.5).")
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3])


def key_value(text: str) -> tuple[str, str]:
    """An encoder option, "key=value"."""
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise click.BadParameter(f"{text!r} is not key=value, for example tune=film.")
    return key.strip(), value


def remember_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[VERBOSE] = value
    return value


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several options, shown by --help in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


output_options = together(
    click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    click.option("-o", "--output", metavar="FILE", help="Where the result of a single INPUT goes; - is stdout."),
    click.option(
        "--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for results; made if missing."
    ),
    click.option("-r", "--recursive", is_flag=True, help="Look into the subfolders of folders, too."),
    click.option("--overwrite", is_flag=True, help="Replace results that exist."),
)

enhance_options = together(
    click.option(
        "--strength",
        type=Number(0, MAX_STRENGTH),
        metavar="NUMBER",
        default=1.0,
        show_default=True,
        help="How far to lift, 0 to 2; 0 leaves the picture as it is.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to compute; `rtlit doctor` says what auto takes.",
    ),
    click.option(
        "--weights",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A weights file (safetensors, or CLIP-LIT's .pth) instead of the shipped one.",
    ),
    click.option("--threads", type=WholeNumber(1), metavar="N", help="CPU threads.  [default: all cores]"),
)

# Of what happens over time.
time_options = together(
    click.option(
        "--smoothing",
        type=Number(0),
        default=EnhanceSettings.smoothing,
        metavar="SECONDS",
        show_default=True,
        help="Time constant of smoothing over time; 0: none.",
    ),
    click.option(
        "--estimate-every",
        type=WholeNumber(1),
        metavar="N",
        help="Run the network on every N-th frame.  [default: automatic]",
    ),
    click.option(
        "--denoise",
        type=Number(0, 1),
        default=EnhanceSettings.denoise,
        metavar="NUMBER",
        show_default=True,
        help="Filter noise out of lifted shadows over time, 0 (off) to 1; 0.25 for a little noise, 0.5 for much.",
    ),
)

report_options = together(
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each input, one a line, on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=remember_verbose,
        help="Print details, and where an unexpected error comes from.",
    ),
)

sheet_options = together(
    click.option(
        "--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Write a contact sheet, .html or .png."
    ),
    click.option(
        "--order",
        type=click.Choice(["worst", "name"]),
        default="worst",
        show_default=True,
        help="The sheet's order: lowest PSNR first (by name without truths), or by name.",
    ),
)


def needs_train(what: str) -> AbstractContextManager[None]:
    """Around imports of `rtlit.training`: says what to install where a package of the extra `train` is missing.

    Raises:
        RtlitError: one is.
    """
    return _needs(what, "train")


def needs_live(what: str) -> AbstractContextManager[None]:
    """The same around imports of `rtlit.live`, for the extra `live`."""
    return _needs(what, "live")


@contextmanager
def _needs(what: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise RtlitError(f"{what} needs {error.name}: pip install 'rtlit[{extra}]'") from None
