"""What sources stand for: lists of sources and collections of the Hub, by the places that they name.

`@list.txt` is a text file, at any place that can be read, with a source on each line. Blank lines, lines
that begin with `#` and what follows ` #` are left out. A path that is not absolute counts from the
folder of the list, so that a list means the same wherever a command is started. A line may be another
list. `hf://collections/owner/slug` stands for the model repositories of a collection.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lego_ray.errors import InvalidOption, NoAdaptersFound, ObjectNotFound
from lego_ray.storage.hub_collection import read_collection
from lego_ray.storage.places import Place
from lego_ray.storage.uri import collection_slug, parse_uri

LIST_MARK = "@"
# A million lines of a hundred characters; a scan's own limit is on what they lead to.
MAX_LIST_BYTES = 100 << 20
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[/~]")
_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True, slots=True)
class Expanded:
    """The places that some sources stand for.

    Attributes:
        places: Each once, in the order they were named.
        repositories: Those of them that a collection lists, by the collection's URI.
        warnings: What was passed over, one sentence each without its full stop.
    """

    places: tuple[str | Place, ...]
    repositories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def expanded(sources: Sequence[str | Place]) -> Expanded:
    """The places that sources stand for. Reads lists, and asks the Hub for collections.

    Args:
        sources: Places, lists of sources (`@list.txt`) and collections
            (`hf://collections/owner/slug`).

    Raises:
        ObjectNotFound: If there is no such list or collection.
        InvalidOption: If a list names nothing, itself, or is not text.
        NoAdaptersFound: If a collection lists no models.
        StorageError: If a list or the Hub cannot be read.
    """
    places: dict[str | Place, None] = {}
    repositories: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    for place in _plain(sources, ()):
        slug = None if isinstance(place, Place) else collection_slug(place)
        if slug is None:
            places[place] = None
            continue
        where = f"hf://collections/{slug}"
        if where in repositories:
            continue
        found = read_collection(slug, where)
        other = _listed(found.others)
        if not found.models:
            raise NoAdaptersFound(
                where, f"the collection lists no models{f', only {other}' if other else ''}"
            )
        repositories[where] = tuple(f"hf://{name}" for name in found.models)
        places.update(dict.fromkeys(repositories[where]))
        if other:
            warnings.append(
                f"{where}: {len(found.others)} of its {len(found.models) + len(found.others)} entries "
                f"are not models and were passed over: {other}"
            )
    return Expanded(tuple(places), repositories, tuple(warnings))


def places_of(sources: Sequence[str | Place]) -> list[str]:
    """Where sources are, as URIs of adapters begin; lists and collections are left out.

    Args:
        sources: As the user gave them.
    """
    plain = [each for each in sources if isinstance(each, Place) or not _is_several(each)]
    return [str(each if isinstance(each, Place) else parse_uri(each)) for each in plain]


def _is_several(source: str) -> bool:
    """Whether a source stands for others: a list, or a collection of the Hub."""
    is_list = source.startswith(LIST_MARK) and not os.path.lexists(source)
    return is_list or collection_slug(source) is not None


def _plain(sources: Sequence[str | Place], within: tuple[Place, ...]) -> Iterator[str | Place]:
    """The sources, those of lists in the place of each list."""
    for source in sources:
        # What has such a name was a source before there were lists, and still is.
        if isinstance(source, Place) or not source.startswith(LIST_MARK) or os.path.lexists(source):
            yield source
            continue
        if source == LIST_MARK:
            raise InvalidOption(source, "@ stands before the name of a list of sources", "Name it.")
        place = parse_uri(source.removeprefix(LIST_MARK))
        if place in within:
            raise InvalidOption(f"{LIST_MARK}{place}", "the list of sources names itself")
        yield from _plain(_lines(place), (*within, place))


def _lines(place: Place) -> list[str]:
    """The sources that a list names, as text that means the same from anywhere.

    Raises:
        ObjectNotFound: If there is no such file.
        InvalidOption: If it is not text, or names nothing.
    """
    where = f"{LIST_MARK}{place}"
    above, name = place.split() or (place, "")
    store = above.open()
    try:
        info = store.stat(name)
        if info.size > MAX_LIST_BYTES:
            raise InvalidOption(
                where, f"the list has {info.size} bytes; expected at most {MAX_LIST_BYTES}"
            )
        text = store.read(name, info.version).decode("utf-8-sig")
    except ObjectNotFound:
        raise ObjectNotFound(
            where,
            "there is no such list of sources: @ and a name is a text file with a source on each line",
            "Check the path. A directory whose own name begins with @ is given as ./@name.",
        ) from None
    except UnicodeDecodeError:
        raise InvalidOption(
            where, "the list of sources is not UTF-8 text", "Give a text file, a source a line."
        ) from None
    # Of a repository, as everything that is read of it: at the commit that its revision means now.
    folder = store.place.pinned(store.revision)
    found = [
        _absolute(line, str(folder), is_local=folder.is_local, where=where)
        for each in text.splitlines()
        if (line := _without_comment(each, str(folder) if folder.is_local else None))
    ]
    if not found:
        raise InvalidOption(where, "the list of sources names none", "Write a source on each line.")
    return found


def _without_comment(line: str, folder: str | None) -> str:
    line = line.strip()
    if "#" in line and folder is not None and line[0] != "#":
        # A path with ` #` in it must not turn into the path before that, which may be there too.
        whole = Path(folder, line).expanduser()
        if whole.exists():
            return line
    return _COMMENT.sub("", line).strip()


def _absolute(line: str, folder: str, *, is_local: bool, where: str) -> str:
    mark = LIST_MARK if line.startswith(LIST_MARK) else ""
    path = line.removeprefix(mark)
    if _ABSOLUTE.match(path):
        return line
    if is_local:
        return mark + os.path.normpath(Path(folder, path))
    below = posixpath.normpath(path)
    if below.startswith("../") or below == "..":
        raise InvalidOption(
            where, f"{line!r} leads out of the folder of the list", "Write the whole URI."
        )
    return mark + (folder if below == "." else f"{folder}/{below}")


def _listed(others: Sequence[tuple[str, str]]) -> str:
    """`2 datasets (a, b), 1 space (c)`."""
    kinds = Counter(kind for kind, _ in others)
    said = []
    for kind, count in kinds.items():
        names = [name for each, name in others if each == kind]
        more = f" and {count - 3} more" if count > 3 else ""
        noun = kind if count == 1 else f"{kind}s"
        said.append(f"{count} {noun} ({', '.join(names[:3])}{more})")
    return ", ".join(said)
