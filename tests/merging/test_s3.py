"""The whole way on S3, against a real server: zoo, output and catalog, inline and through Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

import lego_ray
from lego_ray.errors import AccessDenied, LegoRayError, NoAdaptersFound, ObjectNotFound
from lego_ray.storage.open import open_store
from tests.ceph_gateway import S3Server
from tests.image_zoo import write_kohya
from tests.sources.trainer_output import hf_run
from tests.zoo import CONFIG, WEIGHTS, mixed_zoo, weights_of, write_adapter

pytestmark = pytest.mark.s3
# To start Ray takes 5 s, and several times that on a machine with other work.
SECONDS = 150


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.create(str(file.relative_to(folder)), file.read_bytes())


def keys(uri: str) -> list[str]:
    return [info.key for info in open_store(uri).list()]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = mixed_zoo(tmp_path / "zoo")
    write_adapter(root / "bad", seed=8, use_dora=True)
    return root


def merge(sources: Any, output: Any, **options: Any) -> dict[str, Any]:
    return lego_ray.merge(
        sources, rank=6, output=output, **{"runner": "inline", "n_init": 3, "name": "m", **options}
    )


def lego(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from lego_ray.cli.main import main; main()", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_s3_to_s3_gives_the_bytes_of_the_local_run(
    zoo: Path, s3_bucket: str, tmp_path: Path
) -> None:
    root = f"s3://{s3_bucket}"
    upload(zoo, f"{root}/zoo")
    record = merge(f"{root}/zoo", f"{root}/out/m", catalog=f"{root}/catalog")
    merge(zoo, tmp_path / "m")
    assert open_store(f"{root}/out/m").read(WEIGHTS) == weights_of(tmp_path / "m")
    assert open_store(f"{root}/out/m").read(CONFIG) == (tmp_path / "m" / CONFIG).read_bytes()
    assert record["output"] == f"{root}/out/m"
    assert record["catalog"] == f"{root}/catalog"
    assert all(uri.startswith(f"{root}/zoo/") for uri in record["adapters"])
    assert [r["adapter"] for r in record["refused"]] == [f"{root}/zoo/bad"]
    assert merge(f"{root}/zoo", f"{root}/out/m", catalog=f"{root}/catalog")["status"] == (
        "already published"
    )
    query = "SELECT output_uri, len(adapter_ids) AS n FROM merges"
    rows = lego_ray.catalog.sql(f"{root}/catalog", query).to_pylist()
    assert rows == [{"output_uri": f"{root}/out/m", "n": 5}]
    assert lego_ray.verify(f"{root}/out/m", sources=f"{root}/zoo")["ok"]
    assert not [key for key in keys(root) if "probe" in key]


def test_single_files_merge_on_s3_and_keys_that_lead_elsewhere_are_named(
    s3_env: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    for seed, name in enumerate(("one", "deep/two")):
        write_kohya(tmp_path / "zoo" / f"{name}.safetensors", seed=seed)
    root = f"s3://{s3_bucket}"
    upload(tmp_path / "zoo", f"{root}/zoo")
    data = (tmp_path / "zoo" / "one.safetensors").read_bytes()
    hostile = ("zoo/../up.safetensors", "zoo//absolute.safetensors", "zoo/a/./b.safetensors")
    for key in hostile:
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=key, Body=data)
    for zoo, output in ((tmp_path / "zoo", tmp_path / "m"), (f"{root}/zoo", f"{root}/m")):
        record = merge(zoo, output)
    assert sorted(record["adapters"]) == [
        f"{root}/zoo/deep/two.safetensors",
        f"{root}/zoo/one.safetensors",
    ]
    assert sorted(r["adapter"] for r in record["refused"]) == sorted(f"{root}/{k}" for k in hostile)
    assert all("lead elsewhere" in r["reason"] for r in record["refused"])
    name = "m.safetensors"
    assert open_store(f"{root}/m").read(name) == (tmp_path / "m" / name).read_bytes()
    assert lego_ray.verify(f"{root}/m", sources=record["adapters"])["ok"]
    [alone] = lego_ray.scan(f"{root}/zoo/one.safetensors")["adapters"]
    assert alone["uri"] == f"{root}/zoo/one.safetensors"


@pytest.mark.ray
def test_the_command_line_does_the_same_through_ray(
    zoo: Path, s3_bucket: str, tmp_path: Path
) -> None:
    root = f"s3://{s3_bucket}"
    upload(zoo, f"{root}/zoo")
    options = ("--rank", "6", "--n-init", "3", "--name", "m", "--workers", "2", "--json")
    places = ("--output", f"{root}/out", "--catalog", f"{root}/catalog")
    done = lego("merge", f"{root}/zoo", *options, *places)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    merge(zoo, tmp_path / "m")
    assert open_store(f"{root}/out").read(WEIGHTS) == weights_of(tmp_path / "m")
    asked = lego("catalog", "sql", "SELECT merge_id FROM merges", *places[2:], "--json")
    assert json.loads(asked.stdout)["rows"] == [{"merge_id": record["merge_id"]}]


def test_a_bucket_that_is_not_there(zoo: Path, s3_bucket: str, tmp_path: Path) -> None:
    gone = "s3://no-such-bucket-anywhere"
    for sources, output, catalog in (
        (gone, tmp_path / "m", tmp_path / "catalog"),
        (zoo, f"{gone}/m", tmp_path / "catalog"),
        (zoo, tmp_path / "m", f"{gone}/catalog"),
    ):
        with pytest.raises(ObjectNotFound, match="no such bucket") as caught:
            merge(sources, output, catalog=catalog)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "m" / WEIGHTS).exists()
        assert not (tmp_path / "catalog").exists()


def test_a_prefix_that_is_empty(s3_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(NoAdaptersFound) as caught:
        merge(f"s3://{s3_bucket}/nothing-here", tmp_path / "m")
    assert caught.value.where == f"s3://{s3_bucket}/nothing-here"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("place", ["sources", "output", "catalog"])
def test_wrong_credentials(
    place: str, zoo: Path, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(zoo, f"s3://{s3_bucket}/zoo")
    before = keys(f"s3://{s3_bucket}")
    local = {"sources": zoo, "output": tmp_path / "m", "catalog": tmp_path / "catalog"}
    given = {**local, place: f"s3://{s3_bucket}/{'zoo' if place == 'sources' else place}"}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(LegoRayError) as caught:
            merge(given["sources"], given["output"], catalog=given["catalog"])
    assert isinstance(caught.value, AccessDenied)
    assert caught.value.exit_code == 2
    assert keys(f"s3://{s3_bucket}") == before
    assert not (tmp_path / "m" / WEIGHTS).exists()
    assert not (tmp_path / "catalog").exists()


def test_wrong_credentials_on_the_command_line(s3_bucket: str, tmp_path: Path) -> None:
    bucket = f"s3://{s3_bucket}"
    for arguments in (
        ("scan", bucket),
        ("plan", bucket, "--rank", "4"),
        ("catalog", "list", "--catalog", bucket),
    ):
        done = lego(*arguments, "--json", AWS_SECRET_ACCESS_KEY="wrong")
        assert done.returncode == 2, arguments
        assert json.loads(done.stdout)["error"]["type"] == "AccessDenied"
        [line] = done.stderr.splitlines()
        assert line.startswith(f"AccessDenied: {bucket}")


def test_no_secret_is_shown(s3_env: S3Server, s3_bucket: str, tmp_path: Path, zoo: Path) -> None:
    root = f"s3://{s3_bucket}"
    merge(zoo, f"{root}/m", catalog=f"{root}/catalog")
    for key in keys(root):
        assert s3_env.secret_key.encode() not in open_store(root).read(key)


def test_a_run_on_s3_is_one_adapter_as_on_disk(s3_bucket: str, tmp_path: Path) -> None:
    hf_run(tmp_path / "zoo" / "run")
    root = f"s3://{s3_bucket}"
    upload(tmp_path / "zoo", f"{root}/zoo")
    record = lego_ray.scan(f"{root}/zoo")
    assert [a["uri"] for a in record["adapters"]] == [f"{root}/zoo/run"]
    here = lego_ray.scan(tmp_path / "zoo")
    assert [a["adapter_id"] for a in here["adapters"]] == [
        a["adapter_id"] for a in record["adapters"]
    ]
    [there], [local] = record["passed_over"], here["passed_over"]
    assert [u.removeprefix(root) for u in there["checkpoints"]] == [
        u.removeprefix(str(tmp_path)) for u in local["checkpoints"]
    ]
