"""Tags of adapters from a table and from folder names, beside those of their model cards."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lego_ray.catalog.ids import ids_that_begin
from lego_ray.errors import InvalidOption
from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.planning.inventory import Inventory
from lego_ray.planning.weights import means, names_of

TABLE_FLAG, FOLDERS_FLAG = "--tags", "--tags-from-folders"
# What the column of a table is called that says which adapter a row is about.
ADAPTER_COLUMNS = ("adapter", "uri", "path", "name", "adapter_id")
_SKIPPED = "*"
_KEY = re.compile(r"[A-Za-z_][\w-]*")
_Tagged = TypeVar("_Tagged", AdapterRecord, Refused)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Tagging:
    """Where tags come from beside model cards. A table comes before folders, and they before a card.

    Attributes:
        table: Tags by name of an adapter, glob pattern, URI or first digits of its id.
        folders: Key of each folder level below a source, from the source down; `*` for none.
        where: What to call the table in messages.
    """

    table: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    where: str = ""


NO_TAGGING = Tagging()


def parse_tags(text: str, where: str) -> dict[str, dict[str, str]]:
    """Reads a table of tags: CSV with a head, one column with adapters, any other with a tag.

    An empty cell is no tag.

    Args:
        text: The table.
        where: What to call it in errors.

    Returns:
        Tags by what the column of adapters has.

    Raises:
        InvalidOption: If it has no such column, a row has more cells than the head, or two rows of one
            adapter disagree.
    """
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        heads = [head.strip() for head in rows.fieldnames or ()]
        column = next((name for name in ADAPTER_COLUMNS if name in heads), None)
        if column is None or len(set(heads)) < len(heads) or "" in heads:
            raise InvalidOption(
                TABLE_FLAG,
                f"{where}: its columns are {', '.join(heads) or 'none'}",
                f"Name each once, and one of them {', '.join(ADAPTER_COLUMNS[:-1])} or adapter_id.",
            )
        rows.fieldnames = heads
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            if None in row:
                raise InvalidOption(
                    TABLE_FLAG, f"{where}: line {rows.line_num} has more cells than the head"
                )
            name = (row.pop(column) or "").strip().removeprefix("./").rstrip("/")
            own = found.setdefault(name, {})
            for key, value in row.items():
                text = (value or "").strip()
                if text and own.setdefault(key, text) != text:
                    raise InvalidOption(
                        TABLE_FLAG, f"{where}: {name} has {key} {own[key]} and {text}"
                    )
    except csv.Error as error:
        raise InvalidOption(TABLE_FLAG, f"{where}: it is not CSV: {error}") from error
    found.pop("", None)
    return found


def parse_folders(pattern: str) -> tuple[str, ...]:
    """Reads a pattern of folder names such as `task/language`; `*` for a level without a tag.

    Args:
        pattern: Keys, from the source down.

    Raises:
        InvalidOption: If a part is not a key, or no part is.
    """
    keys = tuple(part.strip() for part in pattern.strip("/").split("/"))
    wrong = [key for key in keys if key != _SKIPPED and not _KEY.fullmatch(key)]
    twice = [key for key in keys if key != _SKIPPED and keys.count(key) > 1]
    if wrong or twice or set(keys) == {_SKIPPED}:
        raise InvalidOption(
            FOLDERS_FLAG,
            f"{pattern!r} is not a pattern of folders",
            "Write a key for each level below the source, such as task/language, and * for none.",
        )
    return keys


def tagged(inventory: Inventory, tagging: Tagging, sources: Sequence[str]) -> Inventory:
    """The inventory with tags from a table and from folders, and a warning of what means no adapter.

    Args:
        inventory: What a scan found.
        tagging: Where tags come from.
        sources: The places that were scanned; their folders count from there.
    """
    if not tagging.table and not tagging.folders:
        return inventory
    rows = _Rows(tagging.table)
    roots = sorted({_without_commit(source).rstrip("/") for source in sources}, key=len)

    def also(each: _Tagged) -> _Tagged:
        of_folders = _of_folders(each.uri, tagging.folders, roots)
        return replace(each, tags={**each.tags, **of_folders, **rows.of(each)})

    result = replace(
        inventory,
        adapters=tuple(map(also, inventory.adapters)),
        refused=tuple(map(also, inventory.refused)),
    )
    unknown = [name for name in tagging.table if name not in rows.used]
    if not unknown:
        return result
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    said = f"{tagging.where} has tags of no adapter here: {', '.join(unknown[:3])}{more}"
    return replace(result, warnings=(*inventory.warnings, said))


class _Rows:
    """The rows of a table, found by adapter: a whole URI before a name, that before a pattern."""

    def __init__(self, table: Mapping[str, Mapping[str, str]]) -> None:
        self._table = table
        self._patterns = [name for name in table if _GLOB.search(name)]
        self.used: set[str] = set()

    def of(self, adapter: AdapterRecord | Refused) -> dict[str, str]:
        """The tags of an adapter."""
        mine = [name for name in self._patterns if means(name, adapter.uri)]
        mine += [n for n in self._of_id(adapter) if n in self._table]
        mine += [name for name in names_of(adapter.uri) if name in self._table]
        self.used.update(mine)
        return {key: value for name in mine for key, value in self._table[name].items()}

    def _of_id(self, adapter: AdapterRecord | Refused) -> Iterator[str]:
        for n in range(6, len(adapter.adapter_id) + 1):
            digits = adapter.adapter_id[:n]
            if digits in self._table and ids_that_begin(digits, (adapter.adapter_id,)):
                yield digits


def _of_folders(uri: str, keys: Sequence[str], roots: Sequence[str]) -> dict[str, str]:
    if not keys:
        return {}
    uri = _without_commit(uri)
    inside = [root for root in roots if uri.startswith(f"{root}/")]
    if not inside:
        return {}
    *folders, _ = uri.removeprefix(f"{inside[-1]}/").split("/")
    return {
        key: value for key, value in zip(keys, folders, strict=False) if key != _SKIPPED and value
    }


def _without_commit(uri: str) -> str:
    """The URI of something on the Hub without its revision."""
    return re.sub(r"^(hf://[^/@]+/[^/@]+)@[^/]+", r"\1", uri)
