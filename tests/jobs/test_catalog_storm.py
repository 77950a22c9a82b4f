"""A small storm leaves each row once, and the reader by the log alone sees a row that is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from jobs.soak.catalog_storm import storm
from jobs.soak.delta_replay import Replay
from lego_ray.catalog.tables import Catalog
from lego_ray.catalog.upkeep.compact import compact
from tests.catalog.sample import adapter
from tests.ceph_gateway import S3Server

# With three processes each of the calls has its turn.
ROUNDS, PROCESSES = 3, 3


def test_a_storm_on_disk(tmp_path: Path) -> None:
    figures = storm(tmp_path / "sources", str(tmp_path / "library"), ROUNDS, PROCESSES)
    assert figures["calls"] == {"compact": 2, "merge": 1, "refresh": 1, "scan": 3, "vacuum": 2}


@pytest.mark.s3
def test_a_storm_on_s3(tmp_path: Path, s3_env: S3Server, s3_bucket: str) -> None:
    figures = storm(tmp_path / "sources", f"s3://{s3_bucket}/library", 1, PROCESSES)
    assert figures["rows"] > 0


def test_the_log_alone_tells_of_what_a_file_holds(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    replay = Replay(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "adapters")
    for number in range(3):
        catalog.append("adapters", [adapter(uri=f"/zoo/{number}")])
        assert replay.rows().num_rows == number + 1
    compact(catalog, "adapters")
    assert sorted(replay.rows()["uri"].to_pylist()) == ["/zoo/0", "/zoo/1", "/zoo/2"]


def test_a_file_removed_twice_is_seen(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    catalog = Catalog(str(tmp_path))
    for number in range(3):
        catalog.append("adapters", [adapter(uri=f"/zoo/{number}")])
    # By the plain library, which doubles rows so.
    stale = [DeltaTable(catalog.table_uri("adapters")) for _ in range(2)]
    for handle in stale:
        handle.optimize.compact()
    replay = Replay(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "adapters")
    with pytest.raises(RuntimeError, match="which is not in the table"):
        replay.rows()
