"""`lego-ray inspect`: what a file is, and why a merge leaves it out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from lego_ray.amounts import size
from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import Place
from lego_ray.cli.printing import (
    count,
    print_fields,
    print_json,
    print_table,
    print_warning,
    rank_range,
    ratio,
    visible,
)

if TYPE_CHECKING:
    from lego_ray.api.inspect import InspectRecord
    from lego_ray.sources.inspection import Inspection

# Exit status where a merge would take nothing of what is there, which is an answer and not an error.
NOTHING_TAKEN = 1
# Rows of a table that are shown; --json has them all.
_MOST = 20


@command()
@click.argument("place", metavar="FILE|DIR|URI", type=Place("file"))
@options.scan_limits
@options.as_json
def inspect(as_json: bool, **given: Any) -> None:
    """Say what a file is: an adapter or not, and why a merge leaves it out.

    Reads headers only. Of one adapter it shows layout, base model, modules, ranks, scales, types and
    extra weights; of a folder, a line for each file that may be an adapter.

    Exits with 0 if a merge takes at least one adapter of what is there, and with 1 if it takes none.

    \b
    Examples:
      lego-ray inspect ./adapters/one
      lego-ray inspect lora.safetensors --json
      lego-ray inspect hf://owner/name
    """
    from lego_ray.api.inspect import inspect as call
    from lego_ray.cli.progress import CountProgress

    with CountProgress("inspect", "file") as progress:
        record = call(given.pop("place"), **options.given_of(given), progress=progress)
    if as_json:
        print_json(record)
    else:
        _print(record)
    if not record.taken:
        click.get_current_context().exit(NOTHING_TAKEN)


def _print(record: InspectRecord) -> None:
    shown = [each for each in record.found if each.status != "not an adapter"] or record.found
    if len(shown) == 1:
        _print_one(shown[0])
    elif shown:
        print_table(
            ("adapter", "is", "layout", "rank", "scale", "sites", "size", "base model"),
            (_line(each) for each in shown),
        )
        for each in shown:
            if each.status == "refused":
                click.echo(f"left out  {visible(each.uri)}\n          {visible(each.reason or '')}")
    for warning in record.warnings:
        print_warning(warning)
    if len(record.found) != 1:
        click.echo(
            f"{count(record.taken, 'adapter')} a merge takes, {record.refused} refused, "
            f"{record.passed_over} passed over; {_others(record.others)}"
            f"{size(record.bytes_read)} read in {record.seconds:.1f} s"
        )


def _others(number: int) -> str:
    if not number:
        return ""
    are = "which is not an adapter" if number == 1 else "which are not adapters"
    return f"{count(number, 'other file')}, {are}; "


def _line(each: Inspection) -> tuple[Any, ...]:
    return (
        each.uri,
        each.status,
        each.layout,
        _ranks(each),
        _scales(each),
        each.n_sites or None,
        size(each.n_bytes),
        each.base_model,
    )


def _print_one(each: Inspection) -> None:
    fields: dict[str, Any] = {
        "place": each.uri,
        "is": _verdict(each),
        "layout": each.layout,
        "weights": _weights(each),
    }
    if each.status != "not an adapter":
        fields |= {
            "base model": each.base_model or None,
            "architecture": each.architecture or None,
            "modules": _modules(each),
            "rank": _ranks(each),
            "scale": _scales(each),
        }
    if each.license:
        fields["license"] = each.license
    if each.tags:
        fields["tags"] = ", ".join(f"{key}: {value}" for key, value in each.tags.items())
    if each.revision:
        fields["revision"] = each.revision
    print_fields(fields)
    if each.reason:
        click.echo(f"{'why not':12}  {visible(each.reason)}")
    for note in each.notes:
        click.echo(f"{'note':12}  {visible(note)}")
    if each.modules:
        click.echo()
        names = ("module", "kind", "sites", "rank", "d_in", "d_out")
        rows = [
            (
                *(m["module"], m["kind"], m["sites"]),
                *(rank_range(m["rank_min"], m["rank_max"]), m["d_in"], m["d_out"]),
            )
            for m in each.modules
        ]
        _print_rows(names, rows)
    elif each.tensors:
        click.echo()
        tensors = [(t["tensor"], t["count"], t["dtype"], str(t["shape"])) for t in each.tensors]
        _print_rows(("tensor", "count", "dtype", "shape"), tensors)
    if each.extra_weights:
        from lego_ray.sources.inspection import pattern_of

        click.echo()
        alike = Counter(
            (pattern_of(t["tensor"]), t["dtype"], str(t["shape"])) for t in each.extra_weights
        )
        extra = [(name, n, dtype, shape) for (name, dtype, shape), n in alike.items()]
        _print_rows(("extra weight", "count", "dtype", "shape"), extra)


def _print_rows(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    print_table(names, rows[:_MOST])
    if len(rows) > _MOST:
        click.echo(f"and {len(rows) - _MOST} more rows, which --json has")


def _verdict(each: Inspection) -> str:
    return {
        "taken": f"a LoRA adapter that a merge takes, and writes in the layout {each.merged_into}",
        "passed over": "a checkpoint of a training run, which a merge passes over",
        "refused": "an adapter that a merge refuses",
        "not an adapter": "not an adapter",
    }[each.status]


def _weights(each: Inspection) -> str | None:
    if each.weights is None:
        return None
    name = each.weights.rpartition("/")[2]
    kinds = ", ".join(f"{d['dtype']} ({size(d['bytes'])})" for d in each.dtypes)
    held = f": {count(each.n_tensors, 'tensor')}, {kinds}" if each.n_tensors else ""
    return f"{name}, {size(each.n_bytes)}{held}"


def _modules(each: Inspection) -> str | None:
    kinds = ", ".join(f"{n} {kind}" for kind, n in each.kinds.items())
    return (
        f"{count(each.n_sites, 'site')}: {kinds}; {each.n_params:,} parameters" if kinds else None
    )


def _ranks(each: Inspection) -> str | None:
    ranks = [found["rank"] for found in each.ranks]
    return rank_range(min(ranks), max(ranks)) if ranks else None


def _scales(each: Inspection) -> str | None:
    scales = [s["scale"] for s in each.scales]
    low, high = (ratio(min(scales)), ratio(max(scales))) if scales else ("", "")
    known = low if low == high else f"{low} to {high}"
    unread = f"{each.scales_unread} in tensors of the file" if each.scales_unread else ""
    return ", ".join(filter(None, (known, unread))) or None
