"""What updating a merge by one adapter costs, against making it: wall time and bytes.

`python -m jobs.benchmarks.update` builds a synthetic zoo of 1,000 adapters and one more, merges the
1,000 with `--updatable` and then adds the one, each with a catalog, by `lego_ray.merge` and
`lego_ray.update` in this process. Neither pays for starting Ray or Python or for importing torch: a
small merge and update come first. The update is made several times, each as a version of the same
merge, and the slowest counts. The aim is under 2 % of both. `--output FILE` keeps the figures as
JSON.

Its sites are those of one layer of a narrow model, so that it runs in minutes. What an update costs
besides, a row of the catalog for each MSU and a few numbers of each in the running sums, does not grow
with the width of the sites, so that wider ones make its share smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lego_ray
from jobs.benchmarks.synthetic_zoo import build
from lego_ray.output.running_sums import STATE_KEY

AIM = 0.02


def main() -> None:
    """Builds the zoo, merges and updates it, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=1, help="of seven sites each")
    parser.add_argument("--rank", type=int, default=8, help="of the sources and the merge")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument(
        "--updates", type=int, default=3, help="how often to update; the slowest counts"
    )
    parser.add_argument("--output", type=Path, help="where to keep the figures, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = {"layers": given.layers, "rank": given.rank, "hidden": given.hidden}
        _warm_up(Path(folder) / "small")
        result = compare(Path(folder), given.adapters, given.updates, **shape)
    full, one = result["full"], result["update"]
    print(f"{given.adapters} adapters of rank {given.rank}, {result['sites']} sites, {shape}")
    print(f"{'':8}  {'seconds':>9}  {'of CPU':>9}  {'MB read':>9}")
    for name, figures in (("full", full), ("update", one)):
        print(
            f"{name:8}  {figures['seconds']:9.3f}  {figures['cpu_seconds']:9.3f}  "
            f"{figures['bytes_read'] / 1e6:9.2f}"
        )
    print(
        f"{'ratio':8}  {result['seconds_ratio']:9.2%}  {result['cpu_seconds_ratio']:9.2%}  "
        f"{result['bytes_ratio']:9.2%}"
    )
    print(
        f"running sums {result['state_bytes'] / 1e6:.2f} MB beside weights of "
        f"{result['weights_bytes'] / 1e6:.2f} MB; drift {result['drift']:.4f}"
    )
    print(json.dumps(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def compare(folder: Path, adapters: int, updates: int, **shape: int) -> dict[str, Any]:
    """Merges a zoo of some adapters, then adds one more.

    Args:
        folder: Where to work.
        adapters: How many the zoo has.
        updates: How often to add the one.
        shape: `layers`, `rank` and `hidden`, as `synthetic_zoo.build` takes them.

    Returns:
        `full` and `update` (the slowest), each with `seconds`, `cpu_seconds` and `bytes_read`; their
        ratios, sizes, the drift, and what was merged.
    """
    wide = {"intermediate": shape["hidden"] * 11 // 4}
    build(folder / "zoo", adapters=adapters, **shape, **wide)
    build(folder / "more", adapters=1, seed=1, **shape, **wide)
    common: dict[str, Any] = {"catalog": folder / "catalog", "runner": "inline"}
    merged = folder / "merged"
    given = {**common, "rank": shape["rank"], "output": merged, "updatable": True}
    record, full = _timed(partial(lego_ray.merge, folder / "zoo", **given))
    found = []
    for number in range(updates):
        where = {**common, "output": folder / f"version-{number}"}
        after, figures = _timed(partial(lego_ray.update, merged, add=folder / "more", **where))
        found.append(figures)
        # The same update is the same merge_id: a catalog of its own each time.
        common["catalog"] = folder / f"catalog-{number}"
    slowest = max(found, key=lambda f: f["seconds"])
    return {
        "adapters": adapters,
        "sites": record["sites"],
        "shape": shape,
        "cpus": os.cpu_count(),
        "full": full,
        "update": slowest,
        "updates": found,
        "seconds_ratio": slowest["seconds"] / full["seconds"],
        "cpu_seconds_ratio": slowest["cpu_seconds"] / full["cpu_seconds"],
        "bytes_ratio": slowest["bytes_read"] / full["bytes_read"],
        "aim": AIM,
        "drift": after["drift"],
        "state_bytes": (merged / STATE_KEY).stat().st_size,
        "weights_bytes": (merged / "adapter_model.safetensors").stat().st_size,
    }


def _timed(
    call: Callable[[], Mapping[str, Any]],
) -> tuple[Mapping[str, Any], dict[str, float]]:
    started, busy = time.perf_counter(), time.process_time()
    record = call()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "bytes_read": record["bytes_read"]}
    return record, figures


def _warm_up(folder: Path) -> None:
    """Imports everything and starts the threads of the libraries, at the cost of neither."""
    compare(folder, 3, 1, layers=1, rank=2, hidden=32)


if __name__ == "__main__":
    main()
