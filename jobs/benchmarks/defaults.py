"""What no flag should mean: `paper`, `lego-adaptive` or `adaptive`, by fresh zoos of two bases.

    python -m jobs.benchmarks.defaults [--base minilm] [--folder DIR] [--out jobs/results]

trains zoos that no choice was made on, merges them by each candidate, tests them, applies the rule and
writes `defaults.json` and `defaults.md`. Everything on the way is kept in the folder, so a second call
goes on where the first ended; results are written after each zoo, of what there is. One process, one
core; `--base` lets two processes share the work. About three and a half hours of one core from nothing;
what decides is measured first, in the first two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jobs.fixtures.packages import DEFAULT_CACHE
from jobs.fixtures.train import say
from jobs.quality import defaults_page as page
from jobs.quality.calibrated import CalibratedClassifier
from jobs.quality.defaults import Bench, Kept, cells
from jobs.quality.fresh_zoos import MINILM, SMOLLM2
from jobs.quality.language import Reader, train_language_zoos
from jobs.quality.zoos import Zoo, train_all

DEFAULT_FOLDER = Path("~/.cache/lego-ray-defaults").expanduser()
MINILM_ROWS = {"validation": 100, "test": 500}
SMOLLM2_ROWS = {"validation": 24, "test": 80}


def benches(folder: Path, cache: Path) -> tuple[Bench, ...]:
    """The bases; nothing is loaded before it is needed."""

    def train_minilm(zoo: Zoo) -> None:
        train_all([zoo], folder, cache, 1)

    def train_smollm2(zoo: Zoo) -> None:
        train_language_zoos([zoo], folder, cache, 1)

    classifier = partial(CalibratedClassifier, folder, cache, MINILM_ROWS["validation"])
    reader = partial(Reader, folder, cache)
    return (
        Bench("minilm", MINILM, MINILM_ROWS, train_minilm, classifier, nats_too=True),
        Bench("smollm2", SMOLLM2, SMOLLM2_ROWS, train_smollm2, reader),
    )


def write(found: tuple[Bench, ...], folder: Path, out: Path) -> str:
    """Writes the results of what was measured, and returns the page."""
    measured = [
        page.Measured(b.name, b.zoos, b.rows, b.nats_too, Kept(folder, b).find) for b in found
    ]
    results = {"date": datetime.now(UTC).date().isoformat(), **page.results(measured)}
    out.mkdir(parents=True, exist_ok=True)
    (out / "defaults.json").write_text(json.dumps(results, indent=1) + "\n")
    text = page.markdown(results)
    (out / "defaults.md").write_text(text)
    return text


def main() -> None:
    """Runs the benchmark and writes its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [bench.name for bench in benches(DEFAULT_FOLDER, DEFAULT_CACHE)]
    parser.add_argument("--base", action="append", choices=names, help="measure this one alone")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="kept between calls")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="downloads")
    parser.add_argument("--results-only", action="store_true", help="measure nothing more")
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    found = benches(given.folder, given.cache)
    for bench in found:
        if given.results_only or bench.name not in (given.base or names):
            continue
        kept, zoo = Kept(given.folder, bench), bench.zoos[0]
        for cell in cells(bench):
            if cell.zoo != zoo:
                write(found, given.folder, given.out)
                zoo = cell.zoo
            started = time.monotonic()
            kept.measure(cell)
            say(f"{cell.zoo.name}, {cell.candidate.label}, {cell.split} x {cell.scale:g}", started)
    sys.stdout.write(write(found, given.folder, given.out))


if __name__ == "__main__":
    main()
