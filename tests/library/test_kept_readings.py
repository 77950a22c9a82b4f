"""A refresh reads the headers of adapters that changed, and finds what reading all would find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from lego_ray.formats.differences import Difference
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import BaseWeight, Block, Derived, Packed
from lego_ray.library import kept_readings
from lego_ray.sources.headers import scan_sources
from lego_ray.sources.readings_file import Kept, UnusableReadings, decoded, encoded
from lego_ray.storage import open_store
from tests.ceph_gateway import S3Server
from tests.kinds_zoo import KINDS, kind_file
from tests.library.test_unchanged import found, recipe, refresh
from tests.s3_fronts import Proxy, http_proxy
from tests.zoo import WEIGHTS, mixed_zoo, wide_site, write_adapter, write_zoo

FOLDER = ".lego-ray/readings/"


def kept(place: str | Path) -> list[str]:
    return [info.key for info in open_store(f"{place}/library").list(FOLDER)]


def test_every_kind_of_reading_comes_back(tmp_path: Path) -> None:
    mixed_zoo(tmp_path / "zoo")
    for number, kind in enumerate(KINDS):
        save_file(kind_file(kind, seed=number)[0], tmp_path / f"zoo/{number}.safetensors")
    write_adapter(tmp_path / "zoo/ia3", peft_type="IA3")
    inventory = scan_sources([str(tmp_path / "zoo")]).inventory
    readings = {a.uri: Kept(a, {"format": "pt"}) for a in inventory.adapters}
    readings["rare"] = Kept(_with_all_parts(inventory.adapters[0]))
    readings |= {r.uri: Kept(r) for r in inventory.refused} | {"none": Kept(None)}
    assert inventory.adapters
    assert inventory.refused
    data = encoded(readings, "a")
    back = decoded(data, "a")
    assert back == readings
    for settings, damaged in (("b", data), ("a", data[:-9]), ("a", b"{}"), ("a", b"")):
        with pytest.raises(UnusableReadings):
            decoded(damaged, settings)


def _with_all_parts(adapter: AdapterRecord) -> AdapterRecord:
    site = adapter.sites[0]
    weight = BaseWeight("/base", "", "model.safetensors", "v1", site.a, is_swapped=True)
    derived = Derived("pissa", 2, 0.1, site.b, 3, 1e-7, site.a, None, (weight,), (weight, weight))
    part = replace(site, derived=derived, packed=Packed(2, 1, is_grouped=True), scaling=0.1 + 0.2)
    whole = replace(site, blocks=(Block(part, 0), Block(site, 2)), height=9, rows=(1, 3))
    added = Difference("m", ".diff_b", site.b, 0.3, (0, 2), is_swapped=True)
    return replace(adapter, sites=(part, whole), full_weights=(site.a,), differences=(added,))


def test_sites_that_adapters_share_are_shared_again(tmp_path: Path) -> None:
    [one, *_] = scan_sources([str(write_zoo(tmp_path / "zoo", 2))]).inventory.adapters
    readings = {str(number): Kept(replace(one, uri=f"/{number}")) for number in range(100)}
    data = encoded(readings, "")
    records = [kept.result for kept in decoded(data, "").values()]
    assert len({id(r.sites) for r in records if isinstance(r, AdapterRecord)}) == 1
    assert len(data) < 10 * len(encoded({"0": readings["0"]}, ""))


@pytest.mark.parametrize("damage", [None, b"", b"\0" * 100])
def test_the_refresh_is_that_of_reading_all(tmp_path: Path, damage: bytes | None) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    write_adapter(zoo / "ia3", peft_type="IA3")
    path = recipe(tmp_path, zoo, tmp_path)
    refresh(path)
    [key] = kept(tmp_path)
    if damage is not None:
        (tmp_path / "library" / key).write_bytes(damage)
    write_adapter(zoo / "more", seed=5)
    record = refresh(path)
    assert (record["status"], record["new"]) == ("refreshed", 1)
    [after] = kept(tmp_path)
    assert after != key
    for folder in (FOLDER, ".lego-ray/unchanged/"):
        for file in (tmp_path / "library" / folder).iterdir():
            file.unlink()
    whole = refresh(path)
    assert kept(tmp_path) == [after], "the same readings, to the byte"
    assert refresh(path)["bytes_read"] == 0
    assert found(refresh(path)) == found(whole)
    assert whole["refused"] == record["refused"]


def test_other_code_reads_every_header_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 20)
    path = recipe(tmp_path, zoo, tmp_path, "  - {name: m, adapters: [a0, a1]}\n")
    refresh(path)
    (zoo / "a7" / WEIGHTS).touch()
    write_adapter(zoo / "more", seed=5)
    same = refresh(path)["bytes_read"]
    code = tmp_path / "code"
    (code / "formats").mkdir(parents=True)
    (code / "formats/peft.py").write_text("KEYS = 1\n")
    monkeypatch.setattr(kept_readings, "PACKAGE", code)
    write_adapter(zoo / "another", seed=6)
    other = refresh(path)["bytes_read"]
    assert other > 5 * same


def test_code_is_told_apart_by_what_it_says_and_where(tmp_path: Path) -> None:
    def code(name: str, **files: str) -> str:
        for file, text in files.items():
            path = tmp_path / name / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return kept_readings.code_of(tmp_path / name)

    first = code("first", a="x = 1", b="")
    assert first == code("same", a="x = 1", b="")
    others = [
        code("other", a="x = 2", b=""),
        code("moved", b="x = 1", a=""),
        code("less", a="x = 1"),
    ]
    assert len({first, *others}) == 4


@pytest.fixture
def proxy(s3_env: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that counts, and alone leads to the server."""
    with http_proxy(s3_env.endpoint_url, tmp_path / "proxy.log") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost")
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        yield proxy


@pytest.mark.s3
def test_on_s3_only_what_changed_is_asked_for(
    proxy: Proxy, s3_bucket: str, s3_env: S3Server, tmp_path: Path
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 20, sites=wide_site(5000))
    s3_env.upload(zoo, s3_bucket, "zoo/")
    merges = "  - {name: m, adapters: [a0, a1]}\n"
    path = recipe(tmp_path, f"s3://{s3_bucket}/zoo", f"s3://{s3_bucket}", merges)
    refresh(path)
    changed = write_adapter(tmp_path / "changed", seed=77, sites=wide_site(5000))
    store = open_store(f"s3://{s3_bucket}/zoo")
    store.delete(f"a7/{WEIGHTS}")
    store.create(f"a7/{WEIGHTS}", (changed / WEIGHTS).read_bytes())
    before = len(proxy.seen())
    record: dict[str, Any] = refresh(path)
    assert (record["new"], [m["status"] for m in record["merges"]]) == (1, ["already published"])
    asked = [each.path for each in proxy.seen()[before:]]
    of_zoo = [path for path in asked if f"/{s3_bucket}/zoo/" in path]
    assert {path.split("/zoo/")[1].split("/")[0] for path in of_zoo} == {"a7"}
    assert len(of_zoo) <= 3, of_zoo
