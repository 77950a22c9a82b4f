"""What the commands show: one JSON object for scripts, short text for people."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import click

from lego_ray.planning.counts import said_of


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object on stdout."""
    click.echo(json.dumps(dict(value), default=_plain, allow_nan=False, sort_keys=False))


# Columns where stdout is not a terminal, for text that is wrapped.
_WIDTH = 100
_GAP = "  "
# A column of text is cut no further to fit a terminal, nor wrapped narrower.
_NARROWEST = 16


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    wrap: bool = False,
    narrow: Mapping[str, int] = MappingProxyType({}),
    spare: Sequence[str] = (),
) -> None:
    """Prints aligned columns; a column of numbers to the right.

    On a terminal that is too narrow, the widest texts lose their beginning: names are at the end of a
    place. Times and numbers are whole. Anywhere else each cell is whole.

    Args:
        columns: Their heads.
        rows: Their values.
        wrap: Whether the last column is prose, to be wrapped.
        narrow: Columns that are wrapped too, and their widths.
        spare: Columns that a terminal may do without, the first to go first: those that have no value,
            and where the others do not fit. A line after the table names those that did not fit.
    """
    values = [list(row) for row in rows]
    room = _room(wrap)
    missing: list[str] = []
    if spare and room is not None:
        columns, values, missing = _fitting(columns, values, room, spare)
    lines = [list(columns), *([_cell(value) for value in row] for row in values)]
    are_numbers = [all(_is_number(row[i]) for row in values) for i in range(len(columns))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    if room is not None and not wrap:
        widths = _narrowed(widths, _are_whole(values, len(columns)), room)
        lines = [[_cut(cell, widths[i]) for i, cell in enumerate(line)] for line in lines]
    wrapped = {
        i for i, name in enumerate(columns) if name in narrow or (wrap and i == len(columns) - 1)
    }
    widths = [min(w, narrow.get(n, w)) for n, w in zip(columns, widths, strict=True)]
    if room is not None and wrap:
        widths[-1] = max(_NARROWEST, room - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1))
    for number, line in enumerate(lines):
        parts = [
            textwrap.wrap(cell, widths[i]) if i in wrapped else [cell]
            for i, cell in enumerate(line)
        ]
        for shown in zip_longest(*parts, fillvalue=""):
            text = _GAP.join(
                (str.rjust if are_numbers[i] else str.ljust)(cell, widths[i])
                for i, cell in enumerate(shown)
            ).rstrip()
            click.echo(styled(text, bold=True) if number == 0 else text)
    if missing:
        click.echo(f"(no room for {', '.join(missing)}; a wider terminal or --json shows more)")


def _are_whole(values: Sequence[Sequence[Any]], n_columns: int) -> list[bool]:
    """Which columns are never cut: numbers and times."""
    return [
        all(_is_number(row[i]) or isinstance(row[i], datetime) for row in values)
        for i in range(n_columns)
    ]


def _fitting(
    columns: Sequence[str], values: list[list[Any]], room: int, spare: Sequence[str]
) -> tuple[list[str], list[list[Any]], list[str]]:
    """The columns that fit, their values, and the names of those that do not, of columns that may go."""
    names = list(columns)
    empty = [n for n in spare if n in names and all(r[names.index(n)] is None for r in values)]
    left = [n for n in names if n not in empty or not values]
    whole = dict(zip(names, _are_whole(values, len(names)), strict=True))

    def narrowest(name: str) -> int:
        at = names.index(name)
        width = max(len(name), *(len(_cell(row[at])) for row in values), 0)
        return width if whole[name] else min(width, max(_NARROWEST, len(name)))

    missing: list[str] = []
    for name in spare:
        if sum(map(narrowest, left)) + len(_GAP) * (len(left) - 1) <= room:
            break
        if name in left:
            left.remove(name)
            missing.append(name)
    kept = [names.index(name) for name in left]
    return left, [[row[i] for i in kept] for row in values], missing


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float | Percent)


class Percent(str):
    """A share in percent, as text: `12.3 %`."""

    __slots__ = ()


def percent(share: float | None) -> Percent | None:
    """A share in percent, with one digit after the point; None for none.

    Args:
        share: 1 for all of it.
    """
    return None if share is None else Percent(f"{100 * share:.1f} %")


def below_one(uris: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all of some places lie in, and their paths below it, which are easier to read.

    Args:
        uris: The places.

    Returns:
        The folder, empty if they have none in common; and the paths, or the places as they are.
    """
    parts = [uri.rstrip("/").split("/")[:-1] for uri in uris]
    common: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    root = "/".join(common)
    if not root.strip("/") or root.endswith(("://", ":/", ":")):
        return "", list(uris)
    return root, [uri.removeprefix(f"{root}/") for uri in uris]


def named_below(uris: Sequence[str]) -> list[str]:
    """What a table calls some adapters: on a terminal their paths below the folder that they share.

    That folder is printed. Anywhere else they are called by their places, as scripts expect.

    Args:
        uris: Their places.
    """
    root, names = below_one(uris) if sys.stdout.isatty() else ("", list(uris))
    if root:
        click.echo(f"adapters in {visible(root)}")
    return names


def styled(text: str, **how: Any) -> str:
    """Text in a color or weight, which `click.echo` leaves out where it prints to no terminal.

    Args:
        text: The text.
        **how: As for `click.style`; without effect where NO_COLOR is set.
    """
    return click.style(text, **how) if text and not os.environ.get("NO_COLOR") else text


def print_warning(text: str) -> None:
    """Prints a warning on a line.

    Args:
        text: What it says; names in it may come from anyone.
    """
    click.echo(f"{styled('warning', fg='yellow')}   {visible(text)}")


def _room(wrap: bool) -> int | None:
    """Columns there are; None for any number."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size((_WIDTH, 24)).columns
    return _WIDTH if wrap else None


def _narrowed(widths: Sequence[int], are_whole: Sequence[bool], room: int) -> list[int]:
    """Widths that fit, where columns of text can give enough: the widest first, down to a limit."""
    found = list(widths)
    over = sum(found) + len(_GAP) * (len(found) - 1) - room
    while over > 0:
        texts = [i for i in range(len(found)) if not are_whole[i] and found[i] > _NARROWEST]
        if not texts:
            break
        widest = max(texts, key=lambda i: found[i])
        others = [found[i] for i in texts if found[i] < found[widest]]
        give = min(over, max(1, found[widest] - max([*others, _NARROWEST])))
        found[widest] -= give
        over -= give
    return found


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"...{cell[len(cell) - width + 3 :]}"


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints one `name  value` a line; on a terminal, text that is longer goes on below."""
    width = max(len(name) for name in fields)
    room = None if (columns := _room(wrap=False)) is None else columns - width - len(_GAP)
    for name, value in fields.items():
        cell = _cell(value)
        lines = (
            [cell]
            if room is None
            else textwrap.wrap(
                cell, max(_NARROWEST, room), break_long_words=False, break_on_hyphens=False
            )
        )
        for number, line in enumerate(lines or [""]):
            click.echo(f"{('' if number else name).ljust(width)}{_GAP}{line}")


def visible(text: str, *, lines: bool = False) -> str:
    """Text whose names may come from anyone, such that it does nothing to a terminal.

    Control characters, those that turn the reading direction and halves of surrogate pairs come out as
    escapes.

    Args:
        text: Anything.
        lines: Whether line breaks and tabs are meant.
    """
    if text.isprintable():
        return text
    meant = "\n\t" if lines else ""
    return "".join(
        c if c.isprintable() or c in meant else c.encode("unicode_escape").decode() for c in text
    )


def print_warnings(merges: Iterable[Mapping[str, Any]]) -> None:
    """Lists the warnings of a library's merges, each once, with the name of its first merge."""
    from lego_ray.planning.recipe_words import in_recipe_words

    names: dict[str, list[str]] = {}
    for merge in merges:
        for warning in map(in_recipe_words, merge["warnings"]):
            names.setdefault(warning, []).append(merge["name"])
    for warning, of in names.items():
        more = f" and {len(of) - 1} more" if len(of) > 1 else ""
        print_warning(f"{of[0]}{more}: {warning}")


def print_advice(merges: Sequence[Mapping[str, Any]]) -> None:
    """Prints the advice on a merge; of several, that on the first that has any, and counts the others.

    Args:
        merges: Records of merges.
    """
    advised = [merge for merge in merges if merge.get("advice")]
    if not advised:
        return
    name = f"{visible(advised[0]['name'])}: " if len(merges) > 1 else ""
    more = f" ({count(len(advised) - 1, 'other merge')} too)" if len(advised) > 1 else ""
    click.echo(f"advice    {name}{visible(advised[0]['advice'])}{more}")


def print_set_aside(record: Mapping[str, Any], *, runs: bool = True) -> None:
    """Lists what lies with the adapters and is not merged: one line per training run, one note each.

    Args:
        record: Has `passed_over` and `notes`; notes that its `warnings`, if any, sum up are left out.
        runs: Whether to list the training runs too.
    """
    from lego_ray.planning.naming import MARKS

    told = tuple(m for m in MARKS if any(m in warning for warning in record.get("warnings", ())))
    for run in record["passed_over"] if runs else ():
        names = run["checkpoints"]
        said = ", ".join(name.rstrip("/").rsplit("/", 1)[-1] for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        click.echo(
            f"passed over {count(len(names), 'checkpoint')} of {visible(run['adapter'])}, {run['why']} "
            f"({visible(said)}{more}); --checkpoints all takes them too"
        )
    alike: dict[str, list[str]] = {}
    for each in record["notes"]:
        if not each["note"].startswith(told):
            alike.setdefault(each["note"], []).append(each["adapter"])
    for note, uris in alike.items():
        more = f" and {len(uris) - 1} more" if len(uris) > 1 else ""
        click.echo(f"note      {visible(uris[0])}{more}\n          {visible(note)}")


def print_refused(refused: Sequence[Mapping[str, str]]) -> None:
    """Lists the adapters left out, each with its reason."""
    for entry in refused:
        label = styled("left out", fg="yellow")
        click.echo(f"{label}  {visible(entry['adapter'])}\n          {visible(entry['reason'])}")


def print_all_refused(record: Mapping[str, Any]) -> None:
    """Lists the adapters of a library left out: from all merges, and those that were bad in one."""
    from lego_ray.planning.recipe_words import in_recipe_words

    of_merges = (entry for merge in record["merges"] for entry in merge["refused"])
    reasons = {e["adapter"]: e["reason"] for e in (*of_merges, *record["refused"])}
    print_refused([{"adapter": a, "reason": in_recipe_words(r)} for a, r in reasons.items()])


def print_counts(counts: Mapping[str, int] | None, taken: str) -> None:
    """Prints what became of the adapters that were found, if not all are taken.

    Args:
        counts: As records have them; None for none.
        taken: What those are called that are taken.
    """
    if counts and counts["found"] > counts["usable"]:
        click.echo(f"adapters {said_of(counts, taken)}")


def print_library_counts(counts: Mapping[str, int] | None) -> None:
    """Prints what became of the adapters of a library's zoo, if not all are merged.

    Args:
        counts: As records have them; None in a record that an earlier release kept.
    """
    if counts and counts["found"] > counts["merged"]:
        more = (
            f"; {counts['merged']:,} of the usable are in a merge, {counts['unmerged']:,} in none"
        )
        click.echo(f"adapters {said_of(counts)}{more if counts['unmerged'] else ''}")


def print_failed(failed: Sequence[Mapping[str, str]]) -> None:
    """Lists the merges of a library that could not be made, each with its reason and what to do."""
    for entry in failed:
        label = styled("not made", fg="red")
        click.echo(f"{label}  {visible(entry['merge'])}: {visible(entry['message'])}")
        click.echo(f"          {visible(entry['next'])}")


def ratio(value: float | None) -> str:
    """Six digits, or `-` where there is none."""
    return _cell(value)


def count(n: int, noun: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def rank_range(low: int, high: int) -> str:
    """The smallest and the largest rank, or the one there is."""
    return str(low) if low == high else f"{low}-{high}"


def nearest(error: float | None) -> str:
    """The text after a rank that was chosen by its error; empty after any other rank."""
    return "" if error is None else f" (the nearest adapter has error {ratio(error)})"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, dict | list):
        return json.dumps(value, default=_plain)
    return visible(str(value))
