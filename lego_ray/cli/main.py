"""`lego-ray`: the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from lego_ray import __version__
from lego_ray.cli import catalog_upkeep
from lego_ray.cli.bake import bake
from lego_ray.cli.build import build
from lego_ray.cli.catalog import catalog
from lego_ray.cli.catalog_site import site
from lego_ray.cli.command import Group
from lego_ray.cli.compare import compare
from lego_ray.cli.completion import completion
from lego_ray.cli.exit import told
from lego_ray.cli.init import init
from lego_ray.cli.inspect import inspect
from lego_ray.cli.logs import waits_shown
from lego_ray.cli.merge import merge
from lego_ray.cli.methods import methods
from lego_ray.cli.plan import plan
from lego_ray.cli.publish import publish
from lego_ray.cli.refresh import refresh
from lego_ray.cli.report import report
from lego_ray.cli.room import watch_room
from lego_ray.cli.scan import scan
from lego_ray.cli.startup import stop_as_usual
from lego_ray.cli.status import status
from lego_ray.cli.tune import tune
from lego_ray.cli.update import update
from lego_ray.cli.verify import verify

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Group, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="lego-ray")
def cli() -> None:
    """Merge zoos of LoRA adapters, and keep a catalog of what went where.

    A SOURCE is a directory (an adapter, or a tree of them), a weights file, s3://bucket/prefix,
    gs://bucket/prefix, az://container/prefix, https://host/file, hf://owner/name[@revision],
    hf://collections/owner/slug, or @list.txt with a source a line.

    Defaults of --catalog, --workers, --memory-budget and others may stand in lego-ray.toml, or below
    [tool.lego-ray] in pyproject.toml, of the working directory. The environment (LEGO_RAY_CATALOG)
    comes before the file, and a flag before both.

    \b
    Examples:
      lego-ray plan  ./adapters --rank 16
      lego-ray merge ./adapters --rank 16 --output ./merged --catalog ./catalog
      lego-ray verify ./merged --sources ./adapters
      lego-ray catalog sql "SELECT name, rank FROM merges" --catalog ./catalog
    """


cli.add_command(inspect)
cli.add_command(scan)
cli.add_command(init)
cli.add_command(plan)
cli.add_command(merge)
cli.add_command(tune)
cli.add_command(build)
cli.add_command(update)
cli.add_command(refresh)
cli.add_command(status)
cli.add_command(verify)
cli.add_command(compare)
cli.add_command(report)
cli.add_command(publish)
cli.add_command(bake)
cli.add_command(catalog)
cli.add_command(methods)
cli.add_command(completion)
catalog.add_command(site)
for each in catalog_upkeep.COMMANDS:
    catalog.add_command(each)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line: exit 0 done, 1 the run failed, 2 bad input.

    Args:
        arguments: The words after the program's name; by default those this process was given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a name that cannot be written is no reason to fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with told(words), waits_shown():
        stop_as_usual()
        watch_room()
        if left := cli.main(words, standalone_mode=False):
            sys.exit(left)
