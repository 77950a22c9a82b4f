"""`lego-ray methods`: the merge methods and presets there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from lego_ray.cli import options
from lego_ray.cli.command import command
from lego_ray.cli.param_types import OneOf
from lego_ray.cli.printing import print_fields, print_json, print_table
from lego_ray.methods.facts import LAWS
from lego_ray.methods.names import METHODS
from lego_ray.methods.presets import PRESETS


class _Name(OneOf):
    """Completes names; a wrong one is the call's error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


@command()
@click.argument(
    "name", required=False, type=_Name(tuple(dict.fromkeys([*METHODS, *PRESETS]))), metavar="[NAME]"
)
@options.as_json
def methods(name: str | None, as_json: bool) -> None:
    """List the merge methods and presets, or one with its options.

    Cost is what a merge costs apart from reading; lineage, how the catalog says of which ranks each
    merged rank is made. Options are given to merge and plan by --option, in recipe files under options.

    \b
    Examples:
      lego-ray methods
      lego-ray methods lego
    """
    from lego_ray.methods.describe import describe

    found = describe(name)
    if as_json:
        print_json(found)
    elif name is None:
        _print_all(found)
    else:
        for each in found["methods"]:
            _print_method(each)
        for each in found["presets"]:
            _print_preset(each, after=bool(found["methods"]))


def _print_all(found: Mapping[str, Any]) -> None:
    print_table(
        ("method", "options", "laws", "cost", "lineage", "when to use it"),
        (
            (
                *(m["name"], len(m["options"]), ", ".join(m["laws"]) or "-"),
                *(m["cost"], m["lineage"], m["use"]),
            )
            for m in found["methods"]
        ),
        wrap=True,
        narrow={"cost": 18, "lineage": 13},
    )
    click.echo()
    for law, meaning in LAWS.items():
        click.echo(f"law {law.ljust(4)}  {meaning}")
    click.echo("every method: the order of the adapters changes no bit")
    click.echo()
    print_table(
        ("preset", "method", "spectrum", "output scale", "when to use it"),
        (
            (name, each.method, str(each.spectrum), str(each.output_scale), each.advice)
            for name, each in PRESETS.items()
        ),
        wrap=True,
    )
    click.echo("\n`lego-ray methods NAME` shows one, with its options")


def _print_method(method: Mapping[str, Any]) -> None:
    print_fields(
        {
            "method": method["name"],
            "merges to": method["summary"],
            "rank": method["ranks"],
            "use it for": method["use"],
            "cost": method["cost"],
            "lineage": method["lineage"],
            "one adapter stays": method["lone_adapter_stays"],
            "spread": method["spread"],
            "laws": "; ".join(LAWS[law] for law in method["laws"]) or "that of every method",
        }
    )
    if not method["options"]:
        click.echo("options            none")
        return
    click.echo()
    print_table(
        ("option", "default", "values", "meaning"),
        ((o["name"], _said(o["default"]), o["values"], o["help"]) for o in method["options"]),
        wrap=True,
    )
    first = method["options"][0]
    click.echo(
        f"\ngive one with --option, such as --option {first['name']}={_said(first['default'])}"
    )


def _print_preset(preset: Mapping[str, Any], *, after: bool) -> None:
    if after:
        click.echo()
    settled = {name: _said(value) for name, value in preset["options"].items()}
    print_fields(
        {
            "preset": preset["name"],
            "use it for": preset["use"],
            **({"warning": preset["warning"]} if preset["warning"] else {}),
            "method": preset["method"],
            **settled,
            "spectrum": str(preset["spectrum"]),
            "output scale": str(preset["output_scale"]),
        }
    )
    click.echo(f"`lego-ray methods {preset['method']}` shows its method")


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
