"""`lego-ray completion`: what a shell needs to complete commands, flags and their values."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from lego_ray.cli.command import command
from lego_ray.cli.param_types import OneOf

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@command()
@click.argument("shell", type=OneOf(tuple(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete lego-ray.

    Completes commands, flags, methods and other choices, and local paths.

    \b
    Examples:
      lego-ray completion bash > ~/.lego-ray.bash     # source it in ~/.bashrc
      lego-ray completion zsh > ~/.zfunc/_lego-ray    # a folder of fpath
      lego-ray completion fish > ~/.config/fish/completions/lego-ray.fish
    """
    script = SHELLS[shell](ctx.find_root().command, {}, "lego-ray", "_LEGO_RAY_COMPLETE")
    click.echo(script.source())
