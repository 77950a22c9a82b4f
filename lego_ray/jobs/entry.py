"""What the entry points of Ray jobs share: a command of `lego-ray` on the cluster the job is in."""

from __future__ import annotations

import sys

import click

from lego_ray.cli.exit import told

# Ray tells a job's entry point where its cluster is, and `auto` finds it. What happens goes to stderr,
# the record to stdout, which is flushed last: in a job's log, it is the last line.
DEFAULTS = {"address": "auto", "as_json": True, "log": "text"}


def run(command: click.Command, module: str) -> None:
    """Runs a command with the arguments of this process; its flags say otherwise than `DEFAULTS`.

    Args:
        command: The command.
        module: The entry point's module.
    """
    known = {parameter.name for parameter in command.params}
    defaults = {name: value for name, value in DEFAULTS.items() if name in known}
    words = sys.argv[1:]
    with told(["--json", *words]):
        if left := command.main(
            words, prog_name=f"python -m {module}", standalone_mode=False, default_map=defaults
        ):
            sys.exit(left)
