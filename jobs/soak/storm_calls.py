"""What one process of the storm does to the shared catalog in one round."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# In one round the processes do as many of these, from another one on each time.
KINDS = ("merge", "compact", "scan", "vacuum", "refresh", "compact", "merge", "gc")
TIMES = 2


@dataclass(frozen=True)
class Call:
    """One process's part of a round.

    Attributes:
        kind: One of `KINDS`.
        round: Number of the round.
        process: Number of the process in it.
        folder: Where the sources are, and the recipe file `library.yaml`.
        root: Where the catalog and outputs are.
        planted_at: When the leftovers that `gc` is to take away were there; seconds since 1970.
    """

    kind: str
    round: int
    process: int
    folder: Path
    root: str
    planted_at: float


@dataclass(frozen=True)
class Done:
    """What came of it.

    Attributes:
        merges: merge_ids that are recorded now.
        licenses: By adapter directory, what its card said when it was scanned.
        overtaken: Files that other compactions replaced first.
        rows_deleted: Rows of leftovers that were taken away.
    """

    merges: tuple[str, ...] = ()
    licenses: tuple[tuple[str, str], ...] = ()
    overtaken: int = 0
    rows_deleted: int = 0


def carry_out(call: Call) -> Done:
    """Does it."""
    return {
        "merge": _merge,
        "compact": _compact,
        "scan": _scan,
        "vacuum": _vacuum,
        "refresh": _refresh,
        "gc": _gc,
    }[call.kind](call)


def _merge(call: Call) -> Done:
    import lego_ray

    done = [
        lego_ray.merge(
            call.folder / "zoo",
            rank=2,
            name=f"m{call.process}",
            seed=time,
            output=f"{call.root}/merges/{call.round}-{call.process}-{time}",
            catalog=f"{call.root}/catalog",
            runner="inline",
        )["merge_id"]
        for time in (call.round * TIMES + each for each in range(TIMES))
    ]
    return Done(merges=tuple(done))


def _compact(call: Call) -> Done:
    from lego_ray import catalog

    done = [each for _ in range(TIMES) for each in catalog.compact(f"{call.root}/catalog")]
    return Done(overtaken=sum(each.by_others for each in done))


def _scan(call: Call) -> Done:
    """Scans directories of its own, whose cards name another license each time."""
    import lego_ray

    found: list[tuple[str, str]] = []
    own = call.folder / f"scanned-{call.process}"
    for time in range(TIMES):
        said = f"license-{call.round}-{time}"
        for adapter in sorted(own.iterdir()):
            (adapter / "README.md").write_text(f"---\nlicense: {said}\n---\n")
            found.append((str(adapter), said))
        lego_ray.scan(own, catalog=f"{call.root}/catalog")
    return Done(licenses=tuple(found))


def _vacuum(call: Call) -> Done:
    from lego_ray import catalog

    for _ in range(TIMES):
        catalog.vacuum(f"{call.root}/catalog", retention="0h", force=True)
    return Done()


def _refresh(call: Call) -> Done:
    import lego_ray

    found: list[str] = []
    for _ in range(TIMES):
        record: dict[str, Any] = lego_ray.refresh(
            call.folder / "library.yaml",
            output=f"{call.root}/library",
            catalog=f"{call.root}/catalog",
            runner="inline",
        )
        found += [each["merge_id"] for each in record.get("merges", []) if each.get("merge_id")]
    return Done(merges=tuple(found))


def _gc(call: Call) -> Done:
    import lego_ray

    deleted = 0
    for _ in range(TIMES):
        # All that this round's other processes write is younger.
        age = datetime.now(UTC) - datetime.fromtimestamp(call.planted_at, UTC)
        record = lego_ray.collect_garbage(
            f"{call.root}/catalog", call.root, older_than=age, delete=True, force=True
        )
        deleted += record["rows_deleted"]
    return Done(rows_deleted=deleted)
