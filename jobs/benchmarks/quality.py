"""What merged adapters can still do: real bases, real adapters, natural tasks, every method.

    python -m jobs.benchmarks.quality [--folder DIR] [--workers 2] [--out jobs/results]

trains the zoos, merges them, finds each merge's scale on validation rows, tests once, and writes
`quality.json`, `quality.md` and `quality.svg`. Everything on the way is kept in the folder, so a second
call goes on where the first ended. About three hours of two cores from nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.fixtures.packages import DEFAULT_CACHE
from jobs.quality import page
from jobs.quality.candidates import (
    AS_THEY_COME,
    AS_THEY_COME_THERE,
    CANDIDATES,
    PAPER,
    PRUNED,
    SHORT_LIST,
)
from jobs.quality.classifier import Classifier
from jobs.quality.evaluations import Evaluations
from jobs.quality.language import KINDS, Reader, train_language_zoos
from jobs.quality.language import ZOO as LANGUAGE_ZOO
from jobs.quality.sections import (
    MAIN,
    RANK,
    TUNED_ON,
    Records,
    bounds,
    by_rank,
    mixed_ranks,
    pruning,
    with_constructed,
)
from jobs.quality.study import Study
from jobs.quality.tuning import as_it_is, measured, tune
from jobs.quality.zoos import NATURAL, ZOOS, train_all

DEFAULT_FOLDER = Path("~/.cache/lego-ray-quality").expanduser()
ROWS = {"validation": 100, "test": 300}
LANGUAGE_ROWS = {"validation": 24, "test": 60}
BY_RANK = (4, 8, 16, 32)


def classification(folder: Path, cache: Path, workers: int) -> dict[str, Any]:
    """The sections on MiniLM."""
    train_all(ZOOS, folder, cache, workers)
    evaluations = Evaluations(Classifier, folder, cache, workers)
    study = Study(folder, evaluations, ROWS)
    try:
        found = tune(study, CANDIDATES, MAIN, RANK, TUNED_ON)
        chosen = [t for t in found if t.candidate in SHORT_LIST]
        return {
            "bounds": bounds(study, MAIN),
            "tuned": measured(study, found, MAIN, PAPER.label),
            "as_they_come": as_it_is(study, AS_THEY_COME, MAIN, RANK, PAPER.label),
            "mixed": mixed_ranks(study, SHORT_LIST, PAPER.label),
            "by_rank": by_rank(study, chosen, BY_RANK, MAIN[0]),
            "pruning": pruning(study, PRUNED, MAIN[0]),
            "constructed": with_constructed(study, chosen),
        }
    finally:
        evaluations.close()


def language(folder: Path, cache: Path, workers: int) -> dict[str, Records]:
    """The sections on SmolLM2."""
    train_language_zoos([LANGUAGE_ZOO], folder, cache, workers)
    evaluations = Evaluations(Reader, folder, cache, workers)
    study = Study(folder, evaluations, LANGUAGE_ROWS)
    zoos = [LANGUAGE_ZOO]
    try:
        found = tune(study, SHORT_LIST, zoos, RANK, zoos)
        sections = {
            "language": bounds(study, zoos) + measured(study, found, zoos, PAPER.label),
            "language_as_they_come": as_it_is(study, AS_THEY_COME_THERE, zoos, RANK, PAPER.label),
        }
    finally:
        evaluations.close()
    for records in sections.values():
        for record in records:
            record["perplexity"] = {
                kind: round(math.exp(-record["by_task"][kind]), 3) for kind in KINDS
            }
    return sections


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="kept between calls")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="downloads")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {
            "tasks": list(NATURAL),
            "zoos": [zoo.name for zoo in MAIN],
            "rank": RANK,
            "validation_rows": ROWS["validation"],
            "test_rows": ROWS["test"],
        },
        **classification(given.folder, given.cache, given.workers),
        **language(given.folder, given.cache, given.workers),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "quality.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "quality.md").write_text(page.markdown(results))
    page.draw(results, given.out / "quality.svg")
    print(page.markdown(results))


if __name__ == "__main__":
    main()
