"""`rtlit train`: the group of the trainings. Each is a module train_<name>.py beside this one."""

from __future__ import annotations

from pathlib import Path

import click

from rtlit.commands import LazyGroup
from rtlit.commands.options import WholeNumber, threads_option, together
from rtlit.errors import RtlitError

_COMMANDS = {
    "clip": "Learn from two folders of unpaired photographs, backlit and well-lit (CLIP-LIT); the default.",
    "supervised": "Learn to undo bad light that is simulated on well-lit photographs.",
    "simulate": "Write pictures in simulated bad light.",
    "lighting": "Train the compact CLIP that knows light, rtlit-lighting.",
    "lighting-report": "Say how well the compact CLIP tells light.",
}


photos_options = together(
    click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTOS..."),
    click.option(
        "-o",
        "--run",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FOLDER",
        help="Folder of the run; made.",
    ),
)

run_options = together(
    click.option("--seed", type=int, metavar="N", help="Of the weights and of every draw.  [default: 0]"),
    threads_option,
    click.option(
        "--every",
        type=WholeNumber(1),
        default=100,
        show_default=True,
        metavar="N",
        help="Iterations between checkpoints.",
    ),
    click.option("--resume", is_flag=True, help="Go on from the checkpoint in the run's folder, with its settings."),
)


class _Train(LazyGroup):
    """`rtlit train BACKLIT WELL_LIT …` is `rtlit train clip BACKLIT WELL_LIT …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.lines, *ctx.help_option_names}:
            args = ["clip", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Train,
    lines=_COMMANDS,
    prefix="train_",
    epilog="`rtlit train COMMAND --help` has the options and examples; without a name, COMMAND is clip.",
)
def train() -> None:
    """Train the network on your own photographs."""


def require_extra() -> None:
    """Raises: RtlitError, when the packages that training needs aren't there."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise RtlitError(f"train needs {error.name}: pip install 'rtlit[train]'") from None
