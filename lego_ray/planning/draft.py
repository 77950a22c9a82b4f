"""A first recipe file for a zoo: one merge per base model, with comments on what was found."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import BadInput
from lego_ray.formats.record import AdapterRecord
from lego_ray.methods.presets import DEFAULT_PRESET, how_of
from lego_ray.planning.counts import said_of
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.only_base import is_of_base
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe

# Refused adapters and values of tags that the comments list.
SHOWN_REFUSED = 10
SHOWN_TAGS = 5
_LONGEST = 100
_PLAIN = re.compile(r"[A-Za-z./~](?:[\w./~@=-]|:(?=\S))*", re.ASCII)
_WORDS_OF_YAML = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"}


@dataclass(frozen=True, slots=True)
class DraftEntry:
    """A merge that the file asks for.

    Attributes:
        name: Its name.
        base_model: The base model of its adapters; empty if they name none.
        selector: The line of YAML that selects its adapters; empty for all of them.
        adapters: The adapters.
        problem: Why it cannot be merged as it is; empty if it can. It is a comment in the file then.
    """

    name: str
    base_model: str
    selector: str
    adapters: tuple[AdapterRecord, ...]
    problem: str = ""

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank of its adapters."""
        ranks = [rank for adapter in self.adapters for rank in adapter.ranks]
        return min(ranks), max(ranks)


def draft_entries(inventory: Inventory, rank: int) -> list[DraftEntry]:
    """One merge per base model, and per layout where those of a base model do not go together.

    Args:
        inventory: What a scan found.
        rank: The rank that each is planned at.
    """
    by_base: dict[str, list[AdapterRecord]] = defaultdict(list)
    for adapter in inventory.adapters:
        by_base[adapter.base_model].append(adapter)
    found: list[DraftEntry] = []
    names: set[str] = set()
    for base in sorted(by_base):
        selector = _of_base(base, by_base)
        adapters = tuple(by_base[base])
        whole = _entry(_name(base, names), base, selector, adapters, rank)
        formats = sorted({adapter.format for adapter in adapters})
        if not whole.problem or len(formats) == 1:
            found.append(whole)
            continue
        names.discard(whole.name)
        for each in formats:
            part = tuple(a for a in adapters if a.format == each)
            chosen = f"where: {_text(f'base_model = {_sql(base)} and format = {_sql(each)}')}"
            found.append(_entry(_name(f"{base}-{each}", names), base, chosen, part, rank))
    return found


def common_rank(adapters: Iterable[AdapterRecord]) -> int:
    """The rank that most adapters have; of several, the largest.

    Args:
        adapters: At least one.
    """
    ranks = Counter(max(adapter.ranks) for adapter in adapters)
    return max(ranks, key=lambda rank: (ranks[rank], rank))


def draft_text(
    inventory: Inventory,
    entries: Sequence[DraftEntry],
    *,
    sources: Sequence[str],
    settings: Mapping[str, object],
    output: str,
    catalog: str,
    rank: int,
) -> str:
    """The recipe file, with comments.

    Args:
        inventory: What a scan found.
        entries: Its merges.
        sources: The user's words for where the adapters are.
        settings: Other keys of the file, such as `checkpoints`.
        output: Where the library is to go.
        catalog: Where it is to be recorded; empty for a comment.
        rank: Rank of the merges.
    """
    return "\n".join(
        [
            *_head(inventory, sources, settings, output, catalog, entries, rank),
            *_merges(entries),
            "",
        ]
    )


def _entry(
    name: str, base: str, selector: str, adapters: tuple[AdapterRecord, ...], rank: int
) -> DraftEntry:
    try:
        make_plan(Recipe(name=name, rank=rank, **how_of(DEFAULT_PRESET)), Inventory(adapters, ()))
    except BadInput as error:
        return DraftEntry(name, base, selector, adapters, error.what)
    return DraftEntry(name, base, selector, adapters)


def _of_base(base: str, by_base: Mapping[str, object]) -> str:
    """The recipe key that takes only the adapters of a base model; empty if all are of it."""
    if len(by_base) == 1:
        return ""
    if base and [other for other in by_base if is_of_base(other, base)] == [base]:
        return f"only_base: {_text(base)}"
    return f"where: {_text(f'base_model = {_sql(base)}')}"


def _name(base: str, taken: set[str]) -> str:
    """A name of a merge, from the last part of a base model's, and not one that is taken."""
    last = base.rstrip("/").rsplit("/", 1)[-1] or "adapters"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._").lower()[:100] or "adapters"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}.{number}"
    taken.add(name)
    return name


def _head(
    inventory: Inventory,
    sources: Sequence[str],
    settings: Mapping[str, object],
    output: str,
    catalog: str,
    entries: Sequence[DraftEntry],
    rank: int,
) -> Iterator[str]:
    yield "# A recipe file, drafted by `lego-ray init`. Edit it as you like; then:"
    yield "#   lego-ray build FILE --dry-run     what it would make"
    yield "#   lego-ray build FILE               make it"
    yield "#   lego-ray refresh FILE             make what changed; for a schedule (needs a catalog)"
    yield "#"
    yield f"# {said_of(inventory.counts.as_json())}."
    for refused in inventory.refused[:SHOWN_REFUSED]:
        yield f"#   refused {_comment(refused.uri)}: {_comment(refused.reason)}"
    if (more := len(inventory.refused) - SHOWN_REFUSED) > 0:
        yield f"#   and {more} more; `lego-ray scan` lists them"
    yield "sources:"
    yield from (f"  - {_text(source)}" for source in sources)
    for key, value in settings.items():
        yield f"{key}: {json.dumps(value)}"
    yield (
        f"catalog: {_text(catalog)}" if catalog else "# catalog: catalog    # what was merged; SQL"
    )
    yield f"output: {_text(output)}    # each merge in a folder of its name"
    low = min(entry.ranks[0] for entry in entries)
    high = max(entry.ranks[1] for entry in entries)
    yield "defaults:"
    yield f"  rank: {rank}    # the adapters have {_range(low, high)}; auto chooses one by measuring"
    yield (
        f"  # preset: {DEFAULT_PRESET}    # how to merge; this is the default, and `lego-ray methods` "
        "lists methods and presets"
    )


def _merges(entries: Sequence[DraftEntry]) -> Iterator[str]:
    if all(entry.problem for entry in entries):
        yield "# No merge can be made as it is: change one, and take its # away."
    yield "merges:"
    for entry in entries:
        formats = ", ".join(sorted({adapter.format for adapter in entry.adapters}))
        base = _comment(entry.base_model) or "no base model named"
        n = len(entry.adapters)
        yield f"  # {n} adapter{'s' * (n > 1)} of {base}: {_range(*entry.ranks)}; {formats}"
        mark = "# " if entry.problem else ""
        if entry.problem:
            yield f"  # It cannot be merged as it is: {_comment(entry.problem)}"
        yield f"  {mark}- name: {_text(entry.name)}"
        if entry.selector:
            yield f"  {mark}  {entry.selector}"
        yield f"  {mark}  # groups: auto    # one merge per group of adapters that are alike"
        yield from _tagged(entry)


def _tagged(entry: DraftEntry) -> Iterator[str]:
    """Examples of merges of some of its adapters: by tag, and by rank, each of two adapters or more."""
    for name, condition, n, by in _parts(entry):
        if entry.selector:
            condition = f"base_model = {_sql(entry.base_model)} and {condition}"
        yield f"  # - name: {_text(f'{entry.name}-{name}')}    # {n} of them, by {by}"
        yield f"  #   where: {_text(condition)}"


def _parts(entry: DraftEntry) -> Iterator[tuple[str, str, int, str]]:
    """Parts that two adapters or more are in, and not all: name, condition, how many, and by what."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for adapter in entry.adapters:
        for key, value in adapter.tags.items():
            values[key][value] += 1
    shared = [
        (n, key, value)
        for key, found in values.items()
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key)
        for value, n in found.items()
        if 2 <= n < len(entry.adapters)
    ]
    for n, key, value in sorted(shared, key=lambda each: (-each[0], *each[1:]))[:SHOWN_TAGS]:
        yield _name(value, set()), f"tags.{key} = {_sql(value)}", n, "tag"
    ranks = Counter(max(adapter.ranks) for adapter in entry.adapters)
    of_ranks = [(rank, n) for rank, n in sorted(ranks.items()) if 2 <= n < len(entry.adapters)]
    for rank, n in of_ranks[:SHOWN_TAGS]:
        yield f"rank-{rank}", f"rank = {rank}", n, "rank"


def _range(low: int, high: int) -> str:
    return f"rank {low}" if low == high else f"ranks {low} to {high}"


def _sql(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _text(value: str) -> str:
    """Text as YAML has it: as it is, or in quotes."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML
    return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())


def _comment(text: str) -> str:
    """Text from anyone, on one line and not too long."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
