"""The `rtlit` command. Each command is a module of this package, imported when it is called.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Every error is one line on stderr.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from rtlit import __version__
from rtlit.errors import RtlitError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBOSE = "rtlit.verbose"
INTERRUPTED = 130

_COMMANDS = {
    "enhance-video": "Enhance backlit or under-exposed videos.",
    "enhance-image": "Enhance backlit or under-exposed pictures.",
    "webcam": "Show a camera enhanced: in a window, the browser or a meeting.",
    "evaluate": "Score enhanced pictures, against their truth if there is one.",
    "evaluate-video": "Score how steady enhanced videos are.",
    "train": "Train the network on your own photographs.",
    "prompts": "Score pictures with learned prompts.",
    "benchmark": "Say how fast rtlit is on this machine.",
    "doctor": "Show versions, devices and codecs; say which backend runs.",
    "completion": "Make your shell complete rtlit's commands and options.",
}


class LazyGroup(click.Group):
    """Loads a command when it is called.

    Args:
        lines: name of each command → its line in the group's help. The click object is called <name> and lives in
            rtlit/commands/<prefix><name>.py.
        prefix: of the modules.
    """

    def __init__(self, *args: Any, lines: Mapping[str, str], prefix: str = "", **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.lines, self.prefix = lines, prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lines:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"rtlit.commands.{self.prefix}{name}"), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        items = [CompletionItem(name, help=line) for name, line in self.lines.items() if name.startswith(incomplete)]
        return items + click.Command.shell_complete(self, ctx, incomplete)  # no command needs to be loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))


class _Rtlit(LazyGroup):
    """Turns every failure into one line and an exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.lines:
            from difflib import get_close_matches

            if close := get_close_matches(args[0], self.lines, 1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception:
            if ctx.meta.get(VERBOSE):
                traceback.print_exc()
            raise

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = "rtlit", **extra: Any
    ) -> None:
        extra.pop("standalone_mode", None)
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text, nor the terminal UTF-8
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except Exception as error:
            message, code = describe(error)
            click.echo(message, err=True)
            if isinstance(error, BrokenPipeError):
                # The interpreter flushes stdout once more at exit, which would complain again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code if isinstance(code, int) else 0)


def describe(error: Exception) -> tuple[str, int]:
    """One line for people, and the exit code."""
    match error:
        case click.UsageError(ctx=context):
            command = context.command_path if context else "rtlit"
            return f"{command}: {_one_line(error.format_message())} See {command} --help.", 2
        case click.ClickException():
            return f"rtlit: {_one_line(error.format_message())}", error.exit_code
        case RtlitError():
            return f"rtlit: {_one_line(str(error))}", error.exit_code
        case click.Abort():
            return "rtlit: interrupted", INTERRUPTED
        case BrokenPipeError():
            return "rtlit: the program reading the output closed it early", 1
        case OSError(filename=str(name), strerror=str(reason)):
            return f"rtlit: {name}: {reason}", 1
        case _:
            what = _one_line(f"{type(error).__name__}: {error}")
            return f"rtlit: unexpected error: {what} (--verbose shows where; please report it)", 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


_EPILOG = """\b
Begin with:
  rtlit enhance-video backlit.mp4    writes backlit.enhanced.mp4
  rtlit webcam                       the camera, enhanced, in a window
  rtlit COMMAND --help               all options, with examples
"""


@click.group(
    "rtlit",
    cls=_Rtlit,
    lines=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="rtlit")
def main() -> None:
    """Real-time enhancement of backlit and under-exposed video."""
