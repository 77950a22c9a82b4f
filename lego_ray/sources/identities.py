"""Which adapter a scan found: one that a record knows, or another with the same headers.

A scan reads headers and samples, so two adapters may have one header-based id. Records of earlier runs
(the catalog, manifests) say which content went by which id, and at which mark of the store it was seen.
Where the mark is the recorded one, nothing is read. Where it is not, one streamed read decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lego_ray.formats.identity import family, is_sampled_whole, told_apart
from lego_ray.formats.record import AdapterRecord
from lego_ray.sources.contents import Content

# The Hub's mark of a file is a hash of its bytes, so it means the same at any commit.
_HUB = "hf://"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a record says of an adapter that an earlier run saw.

    Attributes:
        adapter_id: The id it went by.
        uri: Where it was.
        mark: The store's mark of its weights file then, or empty; of a file on disk the time of its last
            status change with it, if the record has that.
        content: Hex sha256 over its tensors, or empty if they were not read whole.
        until: Of a mark without that time: when it was recorded, in nanoseconds, or 0 if unknown.
    """

    adapter_id: str
    uri: str
    mark: str
    content: str
    until: int = 0

    def is_of(self, adapter: AdapterRecord) -> bool:
        """Whether it was of the file that is there now, by place and mark.

        A file on disk can have the size and the time of writing of another. So its status must not have
        changed since it was recorded, as far as the record says when that was.
        """
        if not self.mark or self.mark not in (adapter.mark, adapter.version):
            return False
        changed_at = int(adapter.changed_at[0] or 0)
        if self.mark == adapter.version and 0 < self.until < changed_at:
            return False
        on_hub = self.uri.startswith(_HUB) and adapter.uri.startswith(_HUB)
        return self.uri == adapter.uri or on_hub


@dataclass(frozen=True, slots=True)
class Family:
    """Sightings of adapters with the same headers and samples.

    Attributes:
        sightings: Each once, in the order they were recorded.
        at_mark: The same by mark; those without one are left out.
        contents: The contents that each id went by, of those known.
    """

    sightings: dict[Sighting, None] = field(default_factory=dict)
    at_mark: dict[str, list[Sighting]] = field(default_factory=dict)
    contents: dict[str, set[str]] = field(default_factory=dict)

    def add(self, seen: Sighting) -> None:
        """Takes one more."""
        if seen in self.sightings:
            return
        self.sightings[seen] = None
        if seen.mark:
            self.at_mark.setdefault(seen.mark, []).append(seen)
        if seen.content:
            self.contents.setdefault(seen.adapter_id, set()).add(seen.content)

    def of(self, adapter: AdapterRecord) -> Sighting | None:
        """The record of the file that is there now; one that knows its content before others."""
        mine = [s for s in self.at_mark.get(adapter.mark, ()) if s.is_of(adapter)]
        if not mine and not self._is_replaced(adapter):
            mine = [s for s in self.at_mark.get(adapter.version, ()) if s.is_of(adapter)]
        return next((s for s in mine if s.content), mine[0] if mine else None)

    def _is_replaced(self, adapter: AdapterRecord) -> bool:
        """Whether its status changed since a record that says when it had changed before."""
        begin = f"{adapter.version} "
        return any(s.uri == adapter.uri and s.mark.startswith(begin) for s in self.sightings)


class Known:
    """All that the available records say of adapters."""

    def __init__(self, sightings: Iterable[Sighting] = ()) -> None:
        """Keeps sightings by the part of the id that adapters with the same headers share."""
        self._families: dict[str, Family] = {}
        for each in sightings:
            self._families.setdefault(family(each.adapter_id), Family()).add(each)

    def of(self, header_id: str) -> Family:
        """Sightings of adapters with these headers."""
        return self._families.get(family(header_id), Family())

    def and_of(self, sightings: Iterable[Sighting]) -> Known:
        """These and more."""
        mine = [s for each in self._families.values() for s in each.sightings]
        return Known((*mine, *sightings))


NOTHING = Known()


def sightings_of(manifest: Mapping[str, Any] | None, until: int = 0) -> list[Sighting]:
    """What a merge's manifest, if there is one, says of its sources and of adapters that were bad.

    Args:
        manifest: The manifest.
        until: When it was written, in nanoseconds; 0 if unknown.
    """
    if manifest is None:
        return []
    entries = [*manifest["sources"], *manifest.get("refused", ())]
    return [
        Sighting(
            str(each["adapter_id"]),
            str(each.get("uri", each.get("adapter", ""))),
            str(each.get("version", "")),
            str(each.get("tensors_sha256", "")),
            until,
        )
        for each in entries
        if each.get("adapter_id")
    ]


def unexplained(adapters: Iterable[AdapterRecord], manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest knows an adapter by its id whose mark and content it does not know."""
    known = Known(sightings_of(manifest))
    for adapter in adapters:
        if is_sampled_whole(adapter.n_bytes):
            continue
        seen = [
            s
            for s in known.of(adapter.adapter_id).sightings
            if s.adapter_id == adapter.adapter_id and s.content
        ]
        if seen and not any(s.is_of(adapter) or s.content == adapter.content for s in seen):
            return True
    return False


def to_read(adapters: Sequence[AdapterRecord], known: Known) -> list[AdapterRecord]:
    """The adapters whose content must be read to say which they are; none in most scans.

    Args:
        adapters: What a scan found, by header-based ids.
        known: What the records say.
    """
    wanted: list[AdapterRecord] = []
    for header_id, mine in _by_id(adapters).items():
        seen = known.of(header_id)
        for adapter in mine:
            at = seen.of(adapter)
            if at is None:
                unclear = bool(seen.contents) or len(mine) > 1
            else:
                unclear = not at.content and len(mine) > 1
            if unclear:
                wanted.append(adapter)
    return wanted


def settled(
    adapters: Sequence[AdapterRecord], known: Known, read: Mapping[str, Content]
) -> list[AdapterRecord]:
    """The adapters by the ids that tell them apart.

    An id is the header-based one, unless an adapter with the same headers and other content is known;
    then the content is part of it.

    Args:
        adapters: What a scan found, by header-based ids.
        known: What the records say.
        read: What was read of those that `to_read` names, by URI.
    """
    changed: dict[str, AdapterRecord] = {}
    for header_id, mine in _by_id(adapters).items():
        for adapter in _of_one_header(header_id, mine, known.of(header_id), read):
            changed[adapter.uri] = adapter
    return [changed.get(adapter.uri, adapter) for adapter in adapters]


def _by_id(adapters: Sequence[AdapterRecord]) -> dict[str, list[AdapterRecord]]:
    found: dict[str, list[AdapterRecord]] = {}
    for adapter in {a.uri: a for a in adapters}.values():
        if not is_sampled_whole(adapter.n_bytes):
            found.setdefault(adapter.adapter_id, []).append(adapter)
    return found


def _of_one_header(
    header_id: str,
    adapters: Sequence[AdapterRecord],
    seen: Family,
    read: Mapping[str, Content],
) -> list[AdapterRecord]:
    contents = seen.contents
    places = {s.uri for s in seen.sightings if s.adapter_id == header_id}
    done: list[AdapterRecord] = []
    fresh: list[AdapterRecord] = []
    for adapter in adapters:
        at, found = seen.of(adapter), read.get(adapter.uri)
        if found is None:
            if at is not None:
                adapter = replace(adapter, adapter_id=at.adapter_id, content=at.content)
            done.append(adapter)
            continue
        name, content = _known_as(header_id, found, contents)
        if name:
            done.append(replace(adapter, adapter_id=name, content=content))
            continue
        adapter = replace(adapter, content=found.whole)
        if header_id in contents or (contents and adapter.uri not in places):
            done.append(_apart(header_id, adapter))
        else:
            fresh.append(adapter)
    # Of several that no record knows, none has more right to the plain id than another.
    several = len({adapter.content for adapter in fresh}) > 1
    return [*done, *(_apart(header_id, a) if several else a for a in fresh)]


def _known_as(header_id: str, found: Content, contents: Mapping[str, set[str]]) -> tuple[str, str]:
    """The id that this content is recorded under, and the hash it is recorded by; or two empty texts."""
    names = [
        name
        for name, recorded in contents.items()
        # An id that went by several contents, as those of earlier releases may, names none of them.
        if all(found.is_what(each) for each in recorded)
    ]
    if not names:
        return "", ""
    name = header_id if header_id in names else min(names)
    return name, found.whole if found.whole in contents[name] else min(contents[name])


def _apart(header_id: str, adapter: AdapterRecord) -> AdapterRecord:
    return replace(adapter, adapter_id=told_apart(header_id, adapter.content))
