"""Options and types of values that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rtlit.commands import VERBOSE
from rtlit.errors import RtlitError
from rtlit.settings import MAX_STRENGTH, EnhanceSettings

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic in new versions of click alone

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(_ParamType):
    """A number in a range, as `click.FloatRange` has it; called so in messages, and not spelt out in the help."""

    name = "number"

    def __init__(self, min: float | None = None, max: float | None = None, min_open: bool = False) -> None:
        self._range: click.FloatRange | click.IntRange = click.FloatRange(min, max, min_open)
        self._range.name = self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._range.convert(value, param, ctx)


class WholeNumber(Number):
    """The same of whole numbers."""

    name = "whole number"

    def __init__(self, min: int | None = None, max: int | None = None) -> None:
        self._range = click.IntRange(min, max)
        self._range.name = self.name


# A name of a file, also one that is to be made, a glob or "-": kept as it is, and completed as a file.
FILE = click.Path(readable=False, allow_dash=True)


def words(*values: str) -> Callable[..., list[str]]:
    """`shell_complete` of an option that takes other values, too."""
    return lambda ctx, param, incomplete: [value for value in values if value.startswith(incomplete)]


# Of open_clip, those that the procedure was tried with, and the compact one.
CLIPS = ("rtlit-lighting", "ViT-B-32", "RN101")
# What `words` offers; FFmpeg may have fewer, and more.
ENCODERS = (
    "libx264",
    "libx265",
    "libsvtav1",
    "libvpx-vp9",
    "ffv1",
    "prores_ks",
    "h264_nvenc",
    "hevc_nvenc",
    "av1_nvenc",
)


def examples(*lines: str) -> str:
    """The end of a help text: command lines, and after two spaces a remark."""
    parts = [line.partition("  ") for line in lines]
    width = max((len(command) for command, _, remark in parts if remark), default=0)
    shown = [f"  {command:{width}}  {remark}".rstrip() for command, _, remark in parts]
    return "\b\nExamples:\n" + "\n".join(shown)


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


def device_option(what: str) -> Callable[[Command], Command]:
    """--device; `what`: its help."""
    return click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help=what
    )


threads_option = click.option("--threads", type=WholeNumber(1), metavar="N", help="CPU threads.  [default: all cores]")

output_options = together(
    click.argument("inputs", nargs=-1, required=True, type=FILE, metavar="INPUT..."),
    click.option(
        "-o", "--output", type=FILE, metavar="FILE", help="Where the result of a single INPUT goes; - is stdout."
    ),
    click.option(
        "--output-dir",
        type=click.Path(file_okay=False),
        metavar="FOLDER",
        help="Folder for results; made if missing.",
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
        help="How far to lift, 0 to 2: 0 leaves the picture as it is; above 1 what seems lit well is lifted, too.",
    ),
    device_option("Where to compute; `rtlit doctor` says what auto takes."),
    click.option(
        "--weights",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A weights file (safetensors, or CLIP-LIT's .pth) instead of the shipped one.",
    ),
    threads_option,
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


def reports(what: str) -> Callable[[Command], Command]:
    """How much is told, and how; `what`: the help of --json."""
    return together(
        click.option("--json", "as_json", is_flag=True, help=what),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            callback=remember_verbose,
            help="Print details, and where an unexpected error comes from.",
        ),
    )


report_options = reports("Print a JSON object for each input, one a line, on stdout.")
result_options = reports("Print the result as a JSON object on stdout.")

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
