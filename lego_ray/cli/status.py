"""`lego-ray status`: how far a merge or a library is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lego_ray.amounts import size
from lego_ray.cli import merged as merged_by
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import count, print_json, print_table

if TYPE_CHECKING:
    from lego_ray.library.progress import LibraryStatus
    from lego_ray.output.progress import StatusRecord


@command()
@click.argument("run", metavar="RUN", type=Place())
@merged_by.catalog
@options.as_json
def status(run: str, catalog: str | None, as_json: bool) -> None:
    """Say how far a merge or a library is; RUN is its --output, name or id.

    Reads what a run keeps beside its output, and may be asked while it runs. For the output of a build
    or a refresh, shows each merge below it, and who is at work there.

    \b
    Examples:
      lego-ray status ./merged
      lego-ray status s3://zoo/library --json
    """
    from lego_ray.api.status import status_of_either
    from lego_ray.library.progress import LibraryStatus

    found = status_of_either(merged_by.place_of(run, catalog))
    if as_json:
        print_json(found)
    elif isinstance(found, LibraryStatus):
        _print_library(found)
    else:
        _print_merge(found)


def _print_library(found: LibraryStatus) -> None:
    from lego_ray.storage.lease import told

    done = sum(merge["state"] == "published" for merge in found["merges"])
    click.echo(
        f"{found['state']}: {done:,} of {count(len(found['merges']), 'merge')} published"
        + (f", {count(found['former'], 'former version')}" if found["former"] else "")
    )
    if found["holder"]:
        click.echo(f"at work: {told(found['holder'])}")
    print_table(
        ("merge", "state", "adapters", "rank", "done", "sites", "last saved", "output"),
        (
            (
                *(m["name"], m["state"], m["adapters"], m["rank"], m["sites_done"], m["sites"]),
                *(m["saved_at"] or "-", m["output"]),
            )
            for m in found["merges"]
        ),
    )


def _print_merge(found: StatusRecord) -> None:
    click.echo(
        f"{found['state']}: {found['name']}, {count(found['adapters'], 'adapter')} at rank "
        f"{found['rank']} by {found['method']}; {found['sites_done']:,} of "
        f"{count(found['sites'], 'site')} done"
        + (f", {found['sites_measured']:,} measured" if found["sites_measured"] is not None else "")
    )
    for file in found["damaged"]:
        click.echo(f"damaged  {file['file']}: {file['problem']}")
    if found["damaged"]:
        click.echo(
            "         The same merge writes missing files again; delete those of another size first."
        )
    for entry in found["quarantined"]:
        click.echo(f"left out  {entry['adapter']}\n          {entry['reason']}")
    if found["state"] == "unfinished":
        inertia = found["inertia"]
        so_far = "so far" if inertia is None else f"inertia {inertia:.6g} so far"
        click.echo(
            f"{count(found['tasks_saved'], 'task')} saved, {size(found['bytes_read'])} read, {so_far}\n"
            f"started  {found['started_at']}, last saved {found['saved_at'] or '-'}\n"
            f"kept in  {found['kept_in']}; the same merge continues from there"
        )
    click.echo(f"output   {found['output']}\nmerge    {found['merge_id']}")
