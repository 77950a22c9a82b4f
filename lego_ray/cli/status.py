"""`lego-ray status`: how far a merge is."""

from __future__ import annotations

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import count, print_json


@command()
@click.argument("run", metavar="RUN", type=Place())
@options.as_json
def status(run: str, as_json: bool) -> None:
    """Say how far a merge is; RUN is its --output.

    Reads what a run keeps beside its output, and may be asked while it runs.

    \b
    Examples:
      lego-ray status ./merged
      lego-ray status s3://zoo/merged --json
    """
    from lego_ray.api.status import status as ask

    found = ask(run)
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{found['state']}: {found['name']}, {count(found['adapters'], 'adapter')} at rank "
        f"{found['rank']} by {found['method']}; {found['sites_done']:,} of "
        f"{count(found['sites'], 'site')} done"
        + (f", {found['sites_measured']:,} measured" if found["sites_measured"] is not None else "")
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
