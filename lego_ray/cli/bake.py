"""`lego-ray bake`: a merge written into its base model."""

from __future__ import annotations

from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import merged as merged_by
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import OneOf, Place
from lego_ray.cli.printing import count, print_json, print_table, print_warning


@command()
@merged_by.merged
@click.option(
    "--base",
    required=True,
    type=Place(),
    metavar="URI",
    help="The base model: a directory, s3://bucket/prefix or hf://owner/name[@revision].",
)
@click.option(
    "--output",
    required=True,
    type=Place(),
    metavar="URI",
    help="A directory or s3://bucket/prefix.",
)
@click.option(
    "--dtype",
    type=OneOf(("base", "F32", "BF16", "F16")),
    default="base",
    show_default=True,
    help="Element type to write; base is the base model's.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be changed; write nothing.")
@merged_by.catalog
@options.as_json
def bake(as_json: bool, **given: Any) -> None:
    """Write the base model with a merged adapter in its weights.

    For servers that take a model and not an adapter. Weights are read and written one tensor at a time,
    in the files that the base model has; its tokenizer and other files are copied.

    \b
    Examples:
      lego-ray bake ./merged --base hf://acme/model --output ./baked --dry-run
      lego-ray bake ./merged --base hf://acme/model --output ./baked
    """
    from lego_ray.api.bake import bake as call
    from lego_ray.cli.progress import CountProgress

    given["merged"] = merged_by.place_of(given["merged"], given.pop("catalog"))
    with CountProgress("bake", "file") as progress:
        record = call(**given, progress=progress)
    if as_json:
        print_json(record)
        return
    if record["dry_run"]:
        click.echo("dry run: nothing was written")
    for warning in record["warnings"]:
        print_warning(warning)
    changed = f"{len(record['changes'])} of {count(record['tensors'], 'tensor')} changed"
    click.echo(f"{record['status']}: {record['output']}, {changed}")
    print_table(
        ("file", "size", ""), ((f["path"], size(f["bytes"]), f["action"]) for f in record["files"])
    )
    click.echo(f"bake   {record['bake_id']}")
