"""A merge over S3 that everything goes wrong for must end as one that nothing does.

`python -m jobs.soak.soak` starts a Ceph gateway with 2,000 small adapters and merges them twice.
First in quiet, in one process. Then by `lego-ray merge --runner ray` through a proxy that spoils 8
% of the requests (`jobs.soak.fault_proxy`), while a Ray worker is killed every few seconds and the
driver once, half way, and started again. Fails unless the two end in the same bytes, with the
catalog whole and nothing left over. Figures go to `<out>/soak.json`, and as the table of
docs/benchmarks.md to `<out>/soak.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import lego_ray
from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge
from jobs.soak import table as soak_table
from jobs.soak.fault_proxy import RATES, fault_proxy
from jobs.soak.killer import Killer
from jobs.soak.soaked_run import soak
from lego_ray.errors import InvalidOption
from lego_ray.formats.peft_config import WEIGHTS_NAME
from lego_ray.methods.presets import DEFAULT_PRESET, how_of
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe
from lego_ray.planning.task_plans import WORKER_BYTES
from lego_ray.sources.headers import scan_sources
from lego_ray.storage.open import open_store
from tests.ceph_gateway import one_server

RANK, UPLOADS = 16, 8


def main() -> None:
    """Soaks a merge, writes the figures, and prints them as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=1, help="of seven sites each")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--rank", type=int, default=4, help="of the sources")
    parser.add_argument("--shards", type=int, default=8, help="a site; 0 for a task a site")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds")
    parser.add_argument("--most-kills", type=int, help="of workers, in all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of faults, kills and weights")
    parser.add_argument("--out", type=Path, default=Path("jobs/results"))
    given = parser.parse_args()
    with one_server() as server:
        figures = run(f"s3://{server.bucket()}", server.endpoint_url, given)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "soak.json").write_text(json.dumps(figures, indent=1) + "\n")
    (given.out / "soak.md").write_text(soak_table.table(figures))
    print(json.dumps(figures))


def run(root: str, endpoint: str, given: argparse.Namespace) -> dict[str, Any]:
    """Soaks a merge in an empty bucket.

    Args:
        root: The bucket's URI, on the server that the environment names.
        endpoint: That server.
        given: The flags.

    Raises:
        RuntimeError: If anything is not as it should be; all of it is said.
    """
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "zoo"
        n_bytes = build(
            zoo,
            adapters=given.adapters,
            layers=given.layers,
            rank=given.rank,
            hidden=given.hidden,
            intermediate=given.hidden,  # all sites as wide, to be cut alike
            seed=given.seed,
        )
        plan = _cut(zoo, given.shards)
        _upload(zoo, f"{root}/zoo")
    _say(f"{given.adapters} adapters, {n_bytes / 1e6:.0f} MB; merged in quiet first")
    zoo_uri, quiet_uri, soaked_uri = f"{root}/zoo", f"{root}/quiet", f"{root}/soaked"
    flags = {"rank": RANK, "name": "soaked", "memory_budget": plan.memory_budget}
    quiet = whole_merge(zoo_uri, quiet_uri, runner="inline", **flags)
    _say(f"{quiet.seconds:.0f} s; now with faults and kills")
    words = [f"{word}" for name, value in flags.items() for word in (_flag(name), value)]
    words += ["--runner", "ray", "--workers", f"{given.workers}", "--catalog", f"{root}/catalog"]
    killer = Killer(given.seed, given.most_kills)
    with fault_proxy(endpoint, seed=given.seed) as (spoilt, proxied):
        soaked = soak(
            ["merge", zoo_uri, "--output", soaked_uri, *words],
            # Ray makes its workers nice; beside other work, few would come up between two kills.
            environ={"AWS_ENDPOINT_URL": spoilt, "RAY_worker_niceness": "0"},
            killer=killer,
            every=given.kill_every,
        )
    found = {
        "differences": _differences(quiet_uri, soaked_uri),
        "leftover_objects": [i.key for i in open_store(root).list() if ".lego-ray" in i.key],
        "multipart_uploads": _uploads(root, proxied[0].unanswered_uploads),
        "catalog_problems": _catalog(f"{root}/catalog", plan),
    }
    if any(found.values()):
        raise RuntimeError(f"it did not end right: {json.dumps(found)}")
    return {
        **_asked(given, plan, n_bytes),
        "requests": proxied[0].requests,
        "requests_repeated": proxied[0].repeated,
        "faults": proxied[0].faults,
        "workers_killed": dict(killer.killed),
        "drivers_killed": soaked.drivers_killed,
        "sites_kept_by_the_first": soaked.kept,
        "sites_resumed": soaked.record["resumed_sites"],
        "task_retries": soaked.retries,
        "seconds": soaked.seconds,
        "quiet_seconds": quiet.seconds,
        "peaks": asdict(soaked.peaks),
        "quiet_peaks": asdict(quiet.measured.peaks),
        "sha256": _hashes(soaked_uri)[WEIGHTS_NAME],
        **{name: len(each) for name, each in found.items()},
    }


def _cut(zoo: Path, shards: int) -> Plan:
    """The plan under the largest memory budget that makes each site a task, or spreads it so far."""
    inventory = scan_sources([str(zoo)]).inventory
    recipe = Recipe(name="soaked", rank=RANK, **how_of(DEFAULT_PRESET))
    whole = make_plan(recipe, inventory)
    if not shards:
        peak = max(site.peak_bytes for task in whole.tasks for site in task.sites)
        return make_plan(recipe, inventory, memory_budget=peak)

    def is_cut(budget: int) -> bool:
        try:
            plan = make_plan(recipe, inventory, memory_budget=budget)
        except InvalidOption:  # too little for any shard
            return True
        return all(len(task.shards) >= shards for task in plan.tasks)

    low, high = WORKER_BYTES, whole.peak_bytes
    while high - low > 1024:
        middle = (low + high) // 2
        low, high = (middle, high) if is_cut(middle) else (low, middle)
    return make_plan(recipe, inventory, memory_budget=low)


def _upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(UPLOADS) as threads:
        list(
            threads.map(
                lambda file: store.create(str(file.relative_to(folder)), file.read_bytes()), files
            )
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _hashes(uri: str) -> dict[str, str]:
    store = open_store(uri)
    return {info.key: hashlib.sha256(store.read(info.key)).hexdigest() for info in store.list()}


def _differences(quiet: str, soaked: str) -> list[str]:
    """What of the two outputs is not the same, files that only one has among it."""
    wanted, found = _hashes(quiet), _hashes(soaked)
    names = sorted({*wanted, *found})
    return [f"{soaked}/{n} differs" for n in names if wanted.get(n) != found.get(n)]


def _uploads(root: str, unanswered: Iterable[str]) -> list[str]:
    """Keys of uploads in parts that were begun in the bucket, and neither ended nor given up.

    Args:
        root: URI of the bucket.
        unanswered: `/bucket/key` of uploads whose id the client never got, to end them by.
    """
    import boto3

    bucket = root.removeprefix("s3://")
    found = boto3.client("s3").list_multipart_uploads(Bucket=bucket)
    left = Counter(upload["Key"] for upload in found.get("Uploads", []))
    left -= Counter(unquote(path).removeprefix(f"/{bucket}/") for path in unanswered)
    return sorted(left.elements())


def _catalog(catalog: str, plan: Plan) -> list[str]:
    """What is wrong with the rows of the soaked merge."""
    checked = lego_ray.check_catalog(catalog, deep=True)
    wrong = [f"catalog: {each['where']}: {each['problem']}" for each in checked["problems"]]
    wanted = {
        "adapters": len(plan.adapters),
        "merges": 1,
        "merge_sites": plan.n_sites,
        "msus": sum(site.n_msus for task in plan.tasks for site in task.sites),
    }
    for table, rows in wanted.items():
        [found] = lego_ray.catalog.sql(catalog, f"SELECT count(*) AS n FROM {table}").to_pylist()
        if found["n"] != rows:
            wrong.append(f"catalog: {table} has {found['n']} rows, not {rows}")
    return wrong


def _asked(given: argparse.Namespace, plan: Plan, n_bytes: int) -> dict[str, Any]:
    """What was to be done, and under which faults."""
    return {
        "adapters": len(plan.adapters),
        "sites": plan.n_sites,
        "bytes": n_bytes,
        "tasks": len(plan.tasks),
        "shards": sum(len(task.shards) for task in plan.tasks),
        "memory_budget": plan.memory_budget,
        "workers": given.workers,
        "kill_every": given.kill_every,
        "seed": given.seed,
        "rates": RATES,
    }


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
