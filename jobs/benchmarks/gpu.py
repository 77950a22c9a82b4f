"""One card in eight minutes: is what a GPU gives what the CPU gives, and how fast is it.

`python -m jobs.benchmarks.gpu` first checks. It merges sites by each route (`gram`, `msu`, and spread in
shards), takes one step of k-means, and merges a whole zoo, each with the card and with the CPU, and
compares labels, merged rows, lineage and files. Then it measures: the share of the card's memory
bandwidth that a step reads at; the products of the search; copies, alone and beside the work; k-means by
faiss, fastkmeans and flash-kmeans where they are installed; and whole merges. It prints one table and
one JSON line. The exit status is 1 if a check failed or was not made, and 2 without a card.

Each part has its share of `--minutes`. What its share has no time for is skipped, with a line; time that
a part leaves goes to those after it. A part that fails does not end the others.

`--device cpu --small` runs the same on the CPU with small sizes, to try the script: the routes are then
compared with each other, and no figure says anything about a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs.benchmarks import gpu_checks, gpu_merges
from jobs.benchmarks.gpu_checks import Check, Site
from jobs.benchmarks.gpu_measures import copy_times, fit_times, search_times
from jobs.benchmarks.gpu_sizes import FULL, SMALL, Sizes, Zoo
from jobs.benchmarks.kmeans_peers import fits
from jobs.benchmarks.step import bandwidth, name_of, step_time, steps
from jobs.benchmarks.synthetic_zoo import build
from lego_ray.tasks.device import device_of


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        part: Of the run.
        what: Was checked or measured.
        found: In words.
        passed: Of a check; None for a measurement.
        figures: The same as numbers; times are seconds, rates are a second.
    """

    part: str
    what: str
    found: str
    passed: bool | None = None
    figures: dict[str, float] | None = None


# Of the table's column that says what was checked or measured.
WIDTH = 64
# Name, share of the time, whether it checks, and what it does, each with its name.
Part = tuple[str, float, bool, Sequence[tuple[str, Callable[[], Iterable[Row]]]]]


def main(words: Sequence[str] | None = None) -> int:
    """Runs all parts; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no CUDA device. Run this on a machine with a GPU and a "
            "CUDA build of torch, or try the script with --device cpu --small.",
            file=sys.stderr,
        )
        return 2
    device = device_of(1.0 if given.device == "cuda" else 0.0)
    sizes = SMALL if given.small else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker does
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(_parts(sizes, device, Path(folder)), given.minutes, device)
    finally:
        torch.set_num_threads(threads)


def _run(parts: Sequence[Part], minutes: float, device: str) -> int:
    print(f"torch {torch.__version__}, on {name_of(device)}; {minutes:g} minutes", flush=True)
    started, share = time.perf_counter(), 0.0
    rows: list[Row] = []
    skipped: list[dict[str, Any]] = []
    for part, own, checks, items in parts:
        share += own
        for what, item in items:
            if time.perf_counter() - started >= 60 * minutes * share:
                skipped.append({"part": part, "what": what, "check": checks})
                print(
                    f"{part:9}{what:{WIDTH}}skipped: its share of the time is used up", flush=True
                )
                continue
            for row in _rows(part, what, item):
                rows.append(row)
                verdict = {None: "", True: "ok: ", False: "FAILED: "}[row.passed]
                print(f"{part:9}{row.what:{WIDTH}}{verdict}{row.found}", flush=True)
    seconds = time.perf_counter() - started
    failed = [row.what for row in rows if row.passed is False]
    missing = [each["what"] for each in skipped if each["check"]]
    n_checks = sum(row.passed is not None for row in rows)
    print(f"{seconds:.0f} s; {n_checks} checks, {len(failed)} failed")
    for title, names in (("failed", failed), ("not checked", missing)):
        if names:
            print(f"{title}: {'; '.join(names)}")
    record = {
        "device": name_of(device),
        "torch": torch.__version__,
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
        "skipped": skipped,
    }
    print(json.dumps(record))
    return 1 if failed or missing else 0


def _rows(part: str, what: str, item: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    try:
        yield from item()
    except Exception as error:  # a card is lent for minutes: what else can be learnt is
        yield Row(part, what, _first_line(error), False)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _parts(sizes: Sizes, device: str, folder: Path) -> list[Part]:
    """The parts, checks first."""
    numbered = itertools.count()
    zoos = [(str(zoo), partial(_merge, zoo, device, folder, numbered)) for zoo in sizes.zoos]
    return [
        (
            "check",
            0.25,
            True,
            [
                *((site.name, partial(_site, site, device)) for site in sizes.sites),
                *((f"step, {s.name}", partial(_step_check, s, device)) for s in sizes.sites[:2]),
            ],
        ),
        ("merge", 0.15, True, zoos[:1]),
        ("step", 0.1, False, [(f"k {k}", partial(_step, sizes, k, device)) for k in sizes.ranks]),
        ("search", 0.05, False, [("search", partial(_search, sizes, device))]),
        ("copy", 0.05, False, [("copies", partial(_copy, sizes, device))]),
        ("merge", 0.25, True, zoos[1:]),
        ("k-means", 0.15, False, _peers(sizes, device)),
    ]


def _of_checks(part: str, checks: Iterable[Check]) -> Iterator[Row]:
    for check in checks:
        yield Row(part, check.what, check.found, check.passed)


def _site(site: Site, device: str) -> Iterator[Row]:
    return _of_checks("check", gpu_checks.check_site(site, device))


def _step_check(site: Site, device: str) -> Iterator[Row]:
    return _of_checks("check", gpu_checks.check_step(site, device))


def _step(sizes: Sizes, k: int, device: str) -> Iterator[Row]:
    points = torch.randn(sizes.shape, generator=torch.Generator().manual_seed(0)).to(device)
    speed = bandwidth(device, sizes.copied)
    yield Row("step", "memory copies", f"{speed / 1e9:.0f} GB/s", None, {"bandwidth": speed})
    for name, step in steps(points, k).items():
        found = step_time(points, k, name, step, speed)
        yield Row(
            "step",
            f"k {k}, {name}",
            f"{found.seconds * 1e3:.2f} ms, {found.share:.2f} of the memory bandwidth",
            None,
            {"seconds": found.seconds, "share": found.share},
        )


def _points(sizes: Sizes, device: str) -> torch.Tensor:
    n, d, _ = sizes.searched
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1)).to(device)


def _search(sizes: Sizes, device: str) -> Iterator[Row]:
    found = search_times(_points(sizes, device), sizes.searched[2], 10)
    yield Row(
        "search",
        "products of rounded rows",
        f"{found['products'] * 1e3:.1f} ms, {found['flops'] / 1e12:.2f} TFLOP/s; a float32 product "
        f"{found['mm_flops'] / 1e12:.2f}; the rest, on the CPU, {found['rest'] * 1e3:.0f} ms",
        None,
        found,
    )


def _copy(sizes: Sizes, device: str) -> Iterator[Row]:
    found = copy_times(_points(sizes, device), sizes.searched[2])
    yield Row(
        "copy",
        "of a pool to the device",
        f"{found['pageable'] / 1e9:.1f} GB/s, pinned {found['pinned'] / 1e9:.1f}; beside steps "
        + (f"{found['hidden']:.2f} of it is hidden" if "hidden" in found else "nothing is hidden"),
        None,
        found,
    )


def _peers(sizes: Sizes, device: str) -> list[tuple[str, Callable[[], Iterable[Row]]]]:
    n, d, k = sizes.searched
    able, left_out = fits(device)

    def measure(name: str) -> Iterator[Row]:
        try:
            found = fit_times(_points(sizes, device), k, 10, able[name], seeds=2)
        except Exception as error:
            if name == "lego-ray":
                raise
            yield Row("k-means", name, f"failed, {_first_line(error)}")
            return
        text = f"{found['seconds']:.2f} s, inertia {found['inertia']:.6g}"
        yield Row("k-means", f"{name}, n {n}, d {d}, k {k}, 10 starts", text, None, found)

    def say(name: str) -> Iterator[Row]:
        yield Row("k-means", name, f"left out: {left_out[name]}")

    return [
        *((name, partial(measure, name)) for name in able),
        *((name, partial(say, name)) for name in left_out),
    ]


def _merge(zoo: Zoo, device: str, folder: Path, numbered: Iterator[int]) -> Iterator[Row]:
    """Whole merges of a zoo: with the CPU, with the card in process, and the first also on Ray."""
    here = folder / f"zoo-{next(numbered)}"
    build(here / "zoo", **asdict(zoo))
    ways: dict[str, dict[str, object]] = {"inline": {"runner": "inline", "gpus": 1}}
    if device == "cpu":
        ways = {"one thread": {"runner": "inline", "workers": 1}}
        yield Row("merge", f"{zoo}, Ray", "left out: it is for a GPU")
    elif here.name == "zoo-0":
        ways["Ray"] = {"gpus": 1}
    wanted = gpu_merges.merge(here / "zoo", here / "cpu", zoo.rank, runner="inline")
    yield Row("merge", f"{zoo}: CPU", f"{wanted.seconds:.1f} s", None, {"seconds": wanted.seconds})
    for name, flags in ways.items():
        found = gpu_merges.merge(here / "zoo", here / name.replace(" ", "-"), zoo.rank, **flags)
        yield from _of_checks("merge", gpu_merges.compare_merges(f"{zoo}, {name}", wanted, found))
        ratio = wanted.seconds / found.seconds
        yield Row(
            "merge",
            f"{zoo}, {name}",
            f"{found.seconds:.1f} s, {ratio:.2f} times as fast as the CPU",
            None,
            {"seconds": found.seconds, "ratio": ratio},
        )


if __name__ == "__main__":
    sys.exit(main())
