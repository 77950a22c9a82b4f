"""`lego-ray publish`: a merge to where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from lego_ray.amounts import size
from lego_ray.cli import merged as merged_by
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import print_json, print_table, print_warning


@command()
@merged_by.merged
@click.option(
    "--to",
    required=True,
    type=Place(),
    metavar="URI",
    help="A directory, s3://bucket/prefix, or hf://owner/name[@branch][/folder].",
)
@click.option("--public", is_flag=True, help="Hub: let anyone see it. Private without this flag.")
@click.option(
    "--revision", default="", metavar="BRANCH", help="Hub: the branch; created if missing."
)
@click.option(
    "--update", is_flag=True, help="Hub: replace a merge of the same name, by the next commit."
)
@click.option("--dry-run", is_flag=True, help="Show what would be made and written; write nothing.")
@merged_by.catalog
@options.as_json
def publish(as_json: bool, **given: Any) -> None:
    """Copy a merge to a directory, S3 or the Hugging Face Hub.

    Its files are held against its manifest first. On the Hub it is one commit, in a repository made
    private unless --public says otherwise; elsewhere what makes it an adapter is written last. What is
    there already is left as it is. The Hub's token is huggingface_hub's: HF_TOKEN or `hf auth login`.

    \b
    Examples:
      lego-ray publish ./merged --to hf://acme/support-lora --dry-run
      lego-ray publish ./merged --to hf://acme/support-lora
    """
    from lego_ray.api.publish import publish as copy

    given["merged"] = merged_by.place_of(given["merged"], given.pop("catalog"))
    record = copy(**given)
    if as_json:
        print_json(record)
        return
    if record["dry_run"]:
        click.echo("dry run: nothing was made and nothing written")
    for warning in record["warnings"]:
        print_warning(warning)
    click.echo(f"{record['status']}: {record['name']}, {_place(record)}")
    print_table(
        ("file", "size", ""),
        (
            *((f["path"], size(f["bytes"]), f["action"]) for f in record["files"]),
            *((path, "", "delete") for path in record["deleted"]),
        ),
    )
    click.echo(
        f"{size(record['bytes'])} to write" if record["dry_run"] else f"to     {record['to']}"
    )
    if record["commit_message"]:
        click.echo("\n    ".join(("commit message:", *record["commit_message"].splitlines())))
    if record["commit"]:
        click.echo(f"commit {record['commit']}")
    if record["url"]:
        click.echo(f"page   {record['url']}")
    click.echo(f"merge  {record['merge_id']}")
    if record["dry_run"] and record["model_card"]:
        click.echo(f"\nthe model card, README.md:\n\n{record['model_card']}", nl=False)


def _place(record: Mapping[str, Any]) -> str:
    """Where it goes, and who may see it."""
    if record["private"] is None:
        return str(record["to"])
    seen = "private" if record["private"] else "public"
    made = "repository that is not there yet" if record["dry_run"] else "new repository"
    kind = made if record["creates"] else "repository"
    return f"on branch {record['branch']} of the {seen} {kind} {record['to']}"
