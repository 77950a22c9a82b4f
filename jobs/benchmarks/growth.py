"""What a cluster that grows saves: the wall of a merge from a slow store, by the workers it may get.

`python -m jobs.benchmarks.growth` starts a Ray head without CPUs, with Ray's autoscaler and a provider
that starts its workers on this machine, and a Ceph gateway through which each request is late. It merges
one zoo with each bound on the workers, each time on a cluster that has none, and prints walls, the most
workers there were, and how many were left some minutes later. A machine with few cores shows it too,
because tasks mostly wait for the store. It exits with 1 if the cluster did not grow to the bound and
shrink to none, or the wall did not fall. Needs Linux with `unshare`, and a machine that is not busy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import lego_ray
from jobs.benchmarks.synthetic_zoo import build
from jobs.soak.fault_proxy import fault_proxy
from lego_ray.storage.open import open_store
from tests.ceph_gateway import ACCESS_KEY, SECRET_KEY, one_server
from tests.runners.grow_cluster import ADDRESS
from tests.runners.growing import on_growing

# Eight workers must at least halve the wall of one; starting them costs each run the same.
AIM = 2.0
RANK = 8
GIVE_UP_SECONDS = 1500
# Workers use their own credentials; the other settings come with the tasks.
_KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def main() -> None:
    """Merges with each bound on the workers, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--adapters", type=int, default=6)
    parser.add_argument("--layers", type=int, default=8, help="of seven sites each, a task a site")
    parser.add_argument(
        "--late", type=float, default=3.0, help="seconds by which an answer is late"
    )
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps({"seconds": _merged(given)}))
        return
    shape = ["--adapters", given.adapters, "--layers", given.layers, "--late", given.late]
    rows = []
    print(f"{'bound':>6}{'most':>6}{'left':>6}{'wall s':>9}{'ratio':>8}", flush=True)
    for bound in given.workers:
        words = ["-m", "jobs.benchmarks.growth", "--inside", bound, *shape]
        said = on_growing(
            max(given.workers), *map(str, words), seconds=GIVE_UP_SECONDS, environ=_KEYS
        )
        if said["rc"]:
            raise SystemExit(said["err"][-3000:])
        wall = json.loads(said["out"].splitlines()[-1])["seconds"]
        rows.append({"bound": bound, "most": said["most"], "left": said["left"], "seconds": wall})
        ratio = rows[0]["seconds"] / wall
        print(f"{bound:6}{said['most']:6}{said['left']:6}{wall:9.1f}{ratio:8.2f}", flush=True)
    ratio = rows[0]["seconds"] / rows[-1]["seconds"]
    grew = all(row["most"] == row["bound"] and row["left"] == 0 for row in rows)
    print(json.dumps({"rows": rows, "ratio": ratio, "aim": AIM, "met": grew and ratio >= AIM}))
    sys.exit(0 if grew and ratio >= AIM else 1)


def _merged(given: argparse.Namespace) -> float:
    """Merges a zoo on the cluster; returns the seconds that it took."""
    with tempfile.TemporaryDirectory() as name, one_server() as server:
        os.environ.update(server.environ())
        shape = {"hidden": 128, "intermediate": 256, "rank": RANK}
        build(Path(name) / "zoo", adapters=given.adapters, layers=given.layers, **shape)
        zoo = f"s3://{server.bucket()}"
        store = open_store(zoo)
        for file in sorted(path for path in (Path(name) / "zoo").rglob("*") if path.is_file()):
            store.create(str(file.relative_to(name)), file.read_bytes())
        plan = lego_ray.plan(zoo, rank=RANK)
        budget = max(site.peak_bytes for task in plan.tasks for site in task.sites)
        delay = (given.late, given.late)
        with fault_proxy(server.endpoint_url, rates={"delay": 1.0}, delay=delay) as (url, _):
            os.environ["AWS_ENDPOINT_URL"] = url
            started = time.perf_counter()
            lego_ray.merge(
                zoo,
                rank=RANK,
                output=Path(name) / "merged",
                runner="ray",
                address=ADDRESS,
                max_workers=given.inside,
                memory_budget=budget,
            )
            return time.perf_counter() - started


if __name__ == "__main__":
    main()
