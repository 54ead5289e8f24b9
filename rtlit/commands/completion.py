"""rtlit completion"""

from __future__ import annotations

import click

from rtlit.commands.options import examples


@click.command(
    epilog=examples(
        'eval "$(rtlit completion bash)"  bash: at the end of ~/.bashrc',
        'eval "$(rtlit completion zsh)"  zsh: in ~/.zshrc after compinit',
        "rtlit completion fish > ~/.config/fish/completions/rtlit.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete rtlit's commands, options, values and files when Tab is pressed.

    SHELL is bash (4.4 or newer), zsh or fish. Each Tab runs rtlit for about a tenth of a second. In a window that is
    open already, run the line of the example once.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    click.echo(kind(ctx.find_root().command, {}, "rtlit", "_RTLIT_COMPLETE").source())
