"""`make demo`: merges the zoo kept in this repository through a local Ray, on local disk.

Run it as `python -m jobs.demo` from the repository's root.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import lego_ray
from lego_ray.amounts import size
from lego_ray.cli.printing import print_refused, print_table
from lego_ray.cli.progress import SiteProgress

ZOO = Path("tests/fixtures/zoo")
HERE = Path("demo")
RANK = 8
QUERY = """SELECT a.uri AS adapter, count(*) AS msus, count(DISTINCT (site, cluster)) AS clusters,
       round(sum(weight), 1) AS merged_ranks, round(avg(distance), 3) AS mean_distance
FROM msus JOIN adapters a USING (adapter_id) GROUP BY 1 ORDER BY merged_ranks DESC"""


def main() -> None:
    """Merges, verifies, asks the catalog, and says where everything is."""
    shutil.rmtree(HERE, ignore_errors=True)  # outputs are create-only; each demo starts again
    merged, catalog = HERE / "merged", HERE / "catalog"
    print(f"Merging the adapters in {ZOO} at rank {RANK} on a local Ray ...", flush=True)
    with SiteProgress() as progress:
        record = lego_ray.merge(
            ZOO, rank=RANK, output=merged, catalog=catalog, name="demo", progress=progress
        )
    print_refused(record["refused"])
    checked = lego_ray.verify(merged, sources=ZOO)
    answer = lego_ray.catalog.sql(catalog, QUERY)
    print(
        f"{len(record['adapters'])} adapters, {record['sites']} sites, "
        f"{size(record['bytes_read'])} read, {record['seconds']:.1f} s; verified against its sources, "
        f"norm {checked['errors']['norm_ratio']:.2f} of their sum's\n"
    )
    flat = " ".join(QUERY.split())
    print(f'$ lego-ray catalog sql "{flat}" --catalog {catalog}\n')
    root = f"{ZOO.absolute().parent}/"
    rows = [
        [v.removeprefix(root) if isinstance(v, str) else v for v in row.values()]
        for row in answer.to_pylist()
    ]
    print_table(answer.column_names, rows)
    print(
        f"\nThe merged adapter is in {merged}: PeftModel.from_pretrained(model, {str(merged)!r}) "
        f"loads it as it is.\n"
        f"The catalog is in {catalog}: Delta tables adapters, merges, merge_sites and msus.\n"
        f'Ask it anything with: lego-ray catalog sql "SELECT ..." --catalog {catalog}'
    )


if __name__ == "__main__":
    main()
