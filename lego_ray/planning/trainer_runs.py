"""Which adapters are checkpoints of one training run, so that one run counts as one adapter.

A run is recognized by names that trainers use (`run_names`). Its final adapter is taken, or the last
checkpoint where there is no final one. A checkpoint is passed over only if it has the modules and ranks
of the one taken. Where names alone cannot tell a run from adapters with numbers in their names, all are
taken, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lego_ray.formats.record import AdapterRecord, Refused
from lego_ray.planning.run_names import (
    FINAL,
    FLAG,
    LAST,
    NUMBERED,
    ONETRAINER,
    REFERENCE,
    ROOT,
    Order,
    Step,
)

# Names that one sentence lists.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something read under a source.

    Attributes:
        place: Its folder, or its file where it is one.
        found: What came of reading it.
        step: What its path says; None if it is of no trainer's pattern.
        named: Whether the user named it as a source by itself. It is then taken whatever it is.
        of_trainer: Whether more than its name says that a trainer wrote it as a checkpoint: files
            to resume from beside it, or its own header.
        run_name: Name of the run in its header; empty if there is none.
    """

    place: str
    found: AdapterRecord | Refused
    step: Step | None = None
    named: bool = False
    of_trainer: bool = False
    run_name: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """The checkpoints of one run that were not taken.

    Attributes:
        adapter: URI of the adapter that was taken instead.
        why: What that one is to the run.
        checkpoints: URIs of those that were passed over, sorted.
    """

    adapter: str
    why: str
    checkpoints: tuple[str, ...]

    def __str__(self) -> str:
        n = len(self.checkpoints)
        return (
            f"passed over {n} checkpoint{'s' if n > 1 else ''} of {self.adapter}, which is "
            f"{self.why}: {_listed(self.checkpoints)}. {FLAG} all takes them too"
        )

    def as_json(self) -> dict[str, Any]:
        """As records list it."""
        return {
            "adapter": self.adapter,
            "why": self.why,
            "checkpoints": list(self.checkpoints),
        }


@dataclass(frozen=True, slots=True)
class Doubt:
    """Adapters that may be one, all of which were taken.

    Attributes:
        uris: Theirs.
        text: What is to be said of it.
    """

    uris: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What is left of some candidates.

    Attributes:
        adapters: Those taken.
        refused: Those that cannot be read, without checkpoints that a later one replaces.
        passed_over: One entry per run.
        doubts: What could not be decided.
    """

    adapters: tuple[AdapterRecord, ...]
    refused: tuple[Refused, ...]
    passed_over: tuple[PassedOver, ...]
    doubts: tuple[Doubt, ...]


def settle(candidates: Sequence[Candidate], checkpoints: str) -> Settled:
    """Decides which of some candidates are taken.

    Args:
        candidates: All that was read, in any order.
        checkpoints: `last` to take one adapter per run, `all` to take every checkpoint too.
    """
    # What two sources lead to is one, and named if one of them names it.
    by_place: dict[str, Candidate] = {}
    for each in candidates:
        if each.place not in by_place or (each.named and not by_place[each.place].named):
            by_place[each.place] = each
    gone: set[str] = set()
    passed_over: list[PassedOver] = []
    doubts: list[Doubt] = []
    for members in _runs(by_place) if checkpoints == "last" else ():
        passed, doubt = _choose(members)
        doubts += doubt
        if passed is not None:
            passed_over.append(passed)
            gone.update(passed.checkpoints)
    left = [each.found for each in by_place.values() if each.found.uri not in gone]
    return Settled(
        adapters=tuple(each for each in left if isinstance(each, AdapterRecord)),
        refused=tuple(each for each in left if isinstance(each, Refused)),
        passed_over=_by_adapter(passed_over),
        doubts=tuple(sorted(doubts, key=lambda each: each.text)),
    )


def _by_adapter(passed_over: Sequence[PassedOver]) -> tuple[PassedOver, ...]:
    """One entry per adapter taken: what was passed over for a checkpoint goes with that checkpoint."""
    taken_for = {uri: each.adapter for each in passed_over for uri in each.checkpoints}
    why: dict[str, str] = {}
    checkpoints: dict[str, set[str]] = {}
    for each in passed_over:
        adapter = each.adapter
        while adapter in taken_for:
            adapter = taken_for[adapter]
        if adapter == each.adapter:
            why.setdefault(adapter, each.why)
        checkpoints.setdefault(adapter, set()).update(each.checkpoints)
    return tuple(
        PassedOver(adapter, why[adapter], tuple(sorted(checkpoints[adapter])))
        for adapter in sorted(checkpoints)
    )


@dataclass(frozen=True, slots=True)
class _Member:
    """A candidate at its place in a run."""

    candidate: Candidate
    order: Order
    sure: bool

    @property
    def uri(self) -> str:
        return self.candidate.found.uri

    @property
    def adapter(self) -> AdapterRecord | None:
        found = self.candidate.found
        return found if isinstance(found, AdapterRecord) else None


def _runs(by_place: dict[str, Candidate]) -> Iterable[list[_Member]]:
    """The members of each run that has several, each run's final adapter among them."""
    runs: dict[tuple[str, str], list[_Member]] = {}
    finals: dict[tuple[str, str], tuple[str, str]] = {}
    for each in by_place.values():
        if each.step is not None:
            member = _Member(each, each.step.order, each.step.sure or each.of_trainer)
            runs.setdefault(each.step.run, []).append(member)
            finals[each.step.run] = (each.step.final, each.step.or_final)
    _join_backups(runs)
    for run, members in sorted(runs.items()):
        final = next((by_place[place] for place in finals[run] if place in by_place), None)
        if final is not None:
            members.append(_Member(final, (ROOT, "", 0, 0), True))
        if len(members) > 1:
            yield sorted(members, key=lambda m: (m.order, m.uri))


def _join_backups(runs: dict[tuple[str, str], list[_Member]]) -> None:
    """Puts OneTrainer's backups, whose names have no prefix, with the latest saves of the workspace."""
    for workspace, kind in [run for run in runs if run[1] == ONETRAINER]:
        saves = [run for run in runs if run[0] == workspace and run[1].startswith(f"{kind} ")]
        if saves:
            latest = max(saves, key=lambda run: (max(m.order for m in runs[run]), run))
            runs[latest] += runs.pop((workspace, kind))


def _choose(members: Sequence[_Member]) -> tuple[PassedOver | None, list[Doubt]]:
    """What is passed over of one run; and what is to be said of the rest."""
    readable = [member for member in members if member.adapter is not None]
    if not readable:
        return None, []
    taken = readable[-1]
    others = [member for member in members if member is not taken and member.order < taken.order]
    alike = [m for m in others if m.adapter is not None and _are_alike(m, taken)]
    by_word = sum(member.order[0] not in (NUMBERED, ROOT) for member in members) > 1
    numbered = [member for member in members if member.order[0] == NUMBERED]
    is_run = (
        by_word
        or any(m.sure for m in members if m.order[0] != NUMBERED)
        or (bool(numbered) and all(m.sure for m in numbered))
    )
    if not is_run:
        return None, [_unsure(taken, alike)] if alike else []
    gone = [m for m in others if not m.candidate.named and (m in alike or m.adapter is None)]
    doubts = [_both_named(taken, m) for m in alike if m.candidate.named]
    doubts += [_differs(taken, m) for m in others if m.adapter is not None and m not in alike]
    if not gone:
        return None, doubts
    why = _WHY.get(taken.order[0], "the last checkpoint there is of its run")
    if all(m.order[0] == REFERENCE for m in gone):
        why = "the adapter that was trained from it"
    uris = tuple(sorted(member.uri for member in gone))
    return PassedOver(taken.uri, why, uris), doubts


_WHY = {
    ROOT: "the final adapter of its run",
    FINAL: "the final adapter of its run",
    LAST: "the last of its run",
}


def _are_alike(member: _Member, taken: _Member) -> bool:
    """Whether two may be checkpoints of one run: the same modules and ranks, on no other base.

    Only the final adapter may have a model card, so one of the two may name no base model. Where both
    headers name the run, they agree.
    """
    one, other = member.adapter, taken.adapter
    names = {member.candidate.run_name, taken.candidate.run_name} - {""}
    return (
        one is not None
        and other is not None
        and len(names) < 2
        and one.format == other.format
        and (one.base_model == other.base_model or not (one.base_model and other.base_model))
        and _table(one) == _table(other)
    )


def _table(adapter: AdapterRecord) -> list[tuple[object, ...]]:
    return [(s.site, s.kind, s.rank, s.d_in, s.d_out) for s in adapter.sites]


def _unsure(taken: _Member, alike: Sequence[_Member]) -> Doubt:
    uris = [*(member.uri for member in alike), taken.uri]
    return Doubt(
        frozenset(uris),
        f"{_listed(uris)} are named like checkpoints of one run without a final adapter, and cannot "
        "be told from adapters with numbers in their names: each is taken. If they are one run, leave "
        "all but one out with --exclude",
    )


def _both_named(taken: _Member, other: _Member) -> Doubt:
    return Doubt(
        frozenset((taken.uri, other.uri)),
        f"{other.uri} is a checkpoint of the run of {taken.uri}: both are taken, since it was named as "
        "a source",
    )


def _differs(taken: _Member, other: _Member) -> Doubt:
    return Doubt(
        frozenset((taken.uri, other.uri)),
        f"{other.uri} lies where a checkpoint of {taken.uri} would, but has another base model, other "
        "modules, other ranks or another name in its header: it is taken as a separate adapter",
    )


def _listed(uris: Sequence[str]) -> str:
    """The first in full, some more by name, the others by number."""
    names = [uris[0], *(_short(uri, uris[0]) for uri in uris[1:_SHOWN])]
    more = len(uris) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _short(uri: str, beside: str) -> str:
    """A path without the folders that it shares with one shown before it."""
    parts, shown = uri.split("/"), beside.split("/")
    same = 0
    while same < min(len(parts), len(shown)) - 1 and parts[same] == shown[same]:
        same += 1
    return "/".join(parts[same:])
