"""What a store that answers late costs a merge: its wall at 1, 50 and 100 ms a request.

`python -m jobs.benchmarks.latency` starts a Ceph gateway with a proxy before it, through which each
request is late by as much, and merges one zoo in one process at each delay, with a catalog beside the
output. It prints walls and the ratio to the first. The aim is 1.3 at 100 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from jobs.benchmarks.synthetic_zoo import build
from jobs.benchmarks.whole_merge import whole_merge
from jobs.soak.fault_proxy import fault_proxy
from lego_ray.storage.open import open_store
from tests.ceph_gateway import one_server

AIM = 1.3
SHAPE = {"hidden": 512, "intermediate": 1408, "rank": 8}


def main() -> None:
    """Merges the zoo at each delay, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4, help="of seven sites each")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[1, 50, 100])
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, one_server() as server:
        build(Path(name), adapters=given.adapters, layers=given.layers, **SHAPE)
        root = f"s3://{server.bucket()}"
        store = open_store(f"{root}/zoo")
        for file in sorted(path for path in Path(name).rglob("*") if path.is_file()):
            store.create(str(file.relative_to(name)), file.read_bytes())
        print(f"{given.adapters} adapters, {7 * given.layers} sites, {os.cpu_count()} cores")
        print(f"{'ms':>6}{'wall s':>9}{'requests':>10}{'ratio':>8}", flush=True)
        for number, late in enumerate(given.milliseconds):
            delay = (late / 1000, late / 1000)
            with fault_proxy(server.endpoint_url, rates={"delay": 1.0}, delay=delay) as (url, done):
                os.environ["AWS_ENDPOINT_URL"] = url
                made = whole_merge(
                    f"{root}/zoo",
                    f"{root}/m{number}",
                    catalog=f"{root}/c{number}",
                    rank=8,
                    runner="inline",
                )
            rows.append({"ms": late, "seconds": made.seconds, "requests": done[0].requests})
            ratio = made.seconds / rows[0]["seconds"]
            print(f"{late:6.0f}{made.seconds:9.1f}{done[0].requests:10}{ratio:8.2f}", flush=True)
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
    slowest = rows[-1]["seconds"] / rows[0]["seconds"]
    print(json.dumps({"rows": rows, "ratio": slowest, "aim": AIM, "met": slowest <= AIM}))


if __name__ == "__main__":
    main()
