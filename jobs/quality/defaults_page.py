"""The results of the default's benchmark as records, and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.quality.decision import (
    ByBase,
    Decision,
    Find,
    decide,
    differences,
    not_measured,
    of_kind,
    pooled,
)
from jobs.quality.defaults import (
    ADAPTIVE,
    BASE,
    CANDIDATES,
    LEGO_ADAPTIVE,
    OWN,
    PAPER,
    SCALES,
    Cell,
)
from jobs.quality.fresh_zoos import OVER_TRAINED
from jobs.quality.scores import Rows, score
from jobs.quality.zoos import Zoo


@dataclass(frozen=True)
class Measured:
    """A base as the page shows it: its zoos and a way to its values."""

    name: str
    zoos: Sequence[Zoo]
    rows: Mapping[str, int]
    nats_too: bool
    find: Find


def results(bases: Sequence[Measured]) -> dict[str, Any]:
    """All that was measured, as values of JSON."""
    return {
        "decision": _decision_record(_decision(bases)),
        "bases": {base.name: _base_record(base) for base in bases},
    }


def _decision(bases: Sequence[Measured]) -> Decision:
    def against(one: str, other: str) -> ByBase:
        return {base.name: differences(base.zoos, base.find, one, other) for base in bases}

    return decide(
        against(LEGO_ADAPTIVE.label, PAPER.label),
        against(ADAPTIVE.label, PAPER.label),
        against(ADAPTIVE.label, LEGO_ADAPTIVE.label),
        [f"{b.name} {name}" for b in bases for name in not_measured(b.zoos, b.find)],
    )


def _decision_record(found: Decision) -> dict[str, Any]:
    return {"preset": found.preset, "reasons": list(found.reasons)}


def _base_record(base: Measured) -> dict[str, Any]:
    units = (False, True) if base.nats_too else (False,)
    by_unit = {}
    for nats in units:
        pairs = [(c.label, PAPER.label) for c in CANDIDATES[1:]]
        pairs.append((ADAPTIVE.label, LEGO_ADAPTIVE.label))
        by_unit["nats" if nats else "main"] = [
            {
                "candidate": one,
                "against": other,
                "T": d.size or "mean",
                "zoos": d.zoos,
                "difference": round(d.score.mean, 5),
                "error": round(d.score.error, 5),
            }
            for one, other in pairs
            for d in differences(base.zoos, base.find, one, other, nats)
        ]
    return {
        "rows": dict(base.rows),
        "zoos": [record for zoo in base.zoos if (record := _zoo_record(base, zoo))],
        "differences": by_unit,
        "scales": list(_scales(base)),
    }


def _zoo_record(base: Measured, zoo: Zoo) -> dict[str, Any] | None:
    """The means of a zoo, by candidate; None if nothing of it was measured."""
    means = {}
    for candidate in (BASE, OWN, *CANDIDATES):
        values = base.find(Cell(zoo, candidate, 1.0, "test"))
        if values is not None:
            means[candidate.label] = _means(values)
    if not means:
        return None
    adapters = [adapter.name for adapter in zoo.adapters]
    return {"name": zoo.name, "kind": zoo.kind, "adapters": adapters, "test": means}


def _means(values: Rows) -> dict[str, Any]:
    main = of_kind(values, False)
    found: dict[str, Any] = {
        "mean": round(score([main]).mean, 5),
        "error": round(score([main]).error, 5),
        "by_task": {task: round(sum(rows) / len(rows), 5) for task, rows in main.items()},
    }
    if nats := of_kind(values, True):
        found["nats"] = round(score([nats]).mean, 5)
        found["nats_error"] = round(score([nats]).error, 5)
    return found


def _scales(base: Measured) -> Iterator[dict[str, Any]]:
    """Means on validation rows at each factor, over the well-trained zoos and the others."""
    for over in (False, True):
        zoos = [zoo for zoo in base.zoos if (zoo.kind == OVER_TRAINED) == over]
        for candidate in (OWN, *CANDIDATES):
            for scale in sorted((1.0, *SCALES)):
                cells = (Cell(zoo, candidate, scale, "validation") for zoo in zoos)
                found = [v for cell in cells if (v := base.find(cell)) is not None]
                if found:
                    mean = score([of_kind(pooled(found), False)])
                    yield {
                        "zoos": OVER_TRAINED if over else "well-trained",
                        "candidate": candidate.label,
                        "scale": scale,
                        "measured": len(found),
                        "mean": round(mean.mean, 5),
                    }


def markdown(found: dict[str, Any]) -> str:
    """The page of what `results` gave."""
    lines = [
        "# What no flag should mean",
        "",
        f"Made by `python -m jobs.benchmarks.defaults` ({found['date']}); all figures are in "
        "`defaults.json`. The zoos were made after the presets were fixed, with seeds used nowhere "
        "else. Differences are paired, row by row, with one standard error over the test rows. "
        "Nothing was chosen on test rows.",
        "",
        f"By the rule, no flag means `{found['decision']['preset']}`: "
        f"{'; '.join(found['decision']['reasons'])}.",
    ]
    for name, base in found["bases"].items():
        lines += ["", *_base_lines(name, base)]
    return "\n".join(lines) + "\n"


def _base_lines(name: str, base: dict[str, Any]) -> Iterator[str]:
    percent = bool(base["differences"].get("nats"))
    factor, unit = (100, "accuracy in per cent") if percent else (1, "nats a token")
    yield f"## {name}"
    yield ""
    if not base["zoos"]:
        yield "Nothing was measured yet."
        return
    rows = base["rows"]
    yield f"At most {rows['test']} test rows a task, {rows['validation']} validation rows."
    for kind, records in base["differences"].items():
        if records:
            said = (
                (factor, unit) if kind == "main" else (1, "calibrated log-probability, nats a row")
            )
            yield from ("", f"### Differences: {said[1]}", "")
            yield from _difference_table(records, said[0])
    yield from ("", f"### Zoo by zoo: {unit}", "")
    labels = list(dict.fromkeys(label for zoo in base["zoos"] for label in zoo["test"]))
    yield from _head(["zoo", *labels])
    for zoo in base["zoos"]:
        cells = [
            f"{factor * m['mean']:.{1 if percent else 3}f}" if m else ""
            for m in (zoo["test"].get(label) for label in labels)
        ]
        yield _row([zoo["name"], *cells])
    if base["scales"]:
        yield from ("", f"### Factors on the update, on validation rows: {unit}", "")
        yield from _scale_table(base["scales"], factor, 1 if percent else 3)


def _difference_table(records: Sequence[dict[str, Any]], factor: float) -> Iterator[str]:
    sizes = list(dict.fromkeys(r["T"] for r in records))
    sizes = [*sorted(s for s in sizes if s != "mean"), "mean"]
    yield from _head(["merge", "against", *(f"T = {s}" if s != "mean" else "mean" for s in sizes)])
    found = {(r["candidate"], r["against"], r["T"]): r for r in records}
    digits = 1 if factor == 100 else 3
    for one, other in dict.fromkeys((r["candidate"], r["against"]) for r in records):
        cells = [
            f"{factor * r['difference']:+.{digits}f} ± {factor * r['error']:.{digits}f}"
            if r
            else ""
            for r in (found.get((one, other, size)) for size in sizes)
        ]
        yield _row([one, other, *cells])


def _scale_table(records: Sequence[dict[str, Any]], factor: float, digits: int) -> Iterator[str]:
    scales = sorted({r["scale"] for r in records})
    yield from _head(["zoos", "merge", *(f"{scale:g}" for scale in scales)])
    found = {(r["zoos"], r["candidate"], r["scale"]): r["mean"] for r in records}
    for zoos, label in dict.fromkeys((r["zoos"], r["candidate"]) for r in records):
        means = (found.get((zoos, label, scale)) for scale in scales)
        yield _row([zoos, label, *("" if m is None else f"{factor * m:.{digits}f}" for m in means)])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
