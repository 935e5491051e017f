"""`outbox completion`: what a shell needs to complete verbs and options."""

import click
from click.shell_completion import get_completion_class

from outbox.cli.terminal import json_option, put_json

_NAME = "outbox"
_VARIABLE = "_OUTBOX_COMPLETE"
"""By which the script asks `outbox` for what could come next."""


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, *, as_json: bool) -> None:
    """Print what makes SHELL complete verbs and options.

    bash: eval "$(outbox completion bash)" in ~/.bashrc. zsh: the same with zsh in ~/.zshrc. fish: outbox completion
    fish > ~/.config/fish/completions/outbox.fish. It completes the command `outbox`, as it is when installed.
    """
    made = get_completion_class(shell)
    assert made is not None, "the three are click's own"
    script = made(ctx.find_root().command, {}, _NAME, _VARIABLE).source()
    if as_json:
        put_json({"shell": shell, "script": script})
    else:
        click.echo(script)
