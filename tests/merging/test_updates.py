"""The next version of a merge: only what changes is read, and what comes and goes leaves no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import (
    BaseModelMismatch,
    InvalidOption,
    LayoutMismatch,
    MalformedAdapter,
    NoAdaptersFound,
    ObjectNotFound,
    OutputExists,
    SiteShapeMismatch,
    StrictRefusal,
    UpdateImpossible,
    VerificationFailed,
)
from lego_ray.output.running_sums import STATE_KEY
from lego_ray.storage.open import open_store
from tests.image_zoo import write_kohya
from tests.merging.test_bad_adapters import spoil
from tests.runners.spread import budget_for, write_wide_zoo
from tests.zoo import (
    CONFIG,
    LINEAR,
    WEIGHTS,
    Site,
    files_of,
    mixed_zoo,
    update_of,
    weights_of,
    write_adapter,
)

RANK = 4
NAMES = ("plain", "higher", "rslora", "partial", "patterned")
# A row of the merged adapter is rounded to float32 once.
FLOAT32 = 2.0**-23


def merge(zoo: Any, output: Path | str, **options: Any) -> dict[str, Any]:
    given = {"rank": RANK, "n_init": 2, "runner": "inline", "updatable": True, **options}
    return lego_ray.merge(zoo, output=output, **given)


def update(merged: Any, **options: Any) -> dict[str, Any]:
    return lego_ray.update(merged, **{"runner": "inline", **options})


def manifest(place: Path | str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((Path(place) / "lego_ray_manifest.json").read_text())
    return read


def adapter_of(place: Path | str) -> dict[str, bytes]:
    """What makes a merge an adapter, and what updates start from."""
    return {name: (Path(place) / name).read_bytes() for name in (WEIGHTS, CONFIG, STATE_KEY)}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "more" / "new", seed=9, rank=5)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "more" / "other", seed=10, missing=["layers.1.q_proj"])


@pytest.fixture
def merged(zoo: Path, tmp_path: Path) -> Path:
    merge(zoo, tmp_path / "m")
    return tmp_path / "m"


def test_running_sums_change_no_byte_of_the_adapter(zoo: Path, merged: Path) -> None:
    merge(zoo, merged.parent / "plain", updatable=False, name="m")
    for name in (WEIGHTS, CONFIG):
        assert (merged.parent / "plain" / name).read_bytes() == (merged / name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"basis": "svd", "align_signs": True},
        {"balance": True, "parameter_reweight": "l2", "compact": True},
        {"parameter_reweight": "none", "output_reweight": -0.5, "dtype": "BF16"},
        {"output_scale": 1.0},
        {"output_scale": "source-norm*-2", "basis": "svd", "spectrum": 0.5},
        {"output_reweight": "pool", "output_scale": 1.5, "site_scales": {"q_proj": -0.5}},
        {"weights": {"rslora": 0.5, "new": -2.0, "plain": 1.0}, "rank": 7},
        {"rank": 64},
    ],
    ids=str,
)
def test_an_adapter_added_and_removed_gives_back_the_earlier_bytes(
    zoo: Path, new: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    sources: list[Path] = [zoo, new] if "new" in options.get("weights", {}) else [zoo]
    merge(sources, tmp_path / "m", **options)
    other = write_adapter(tmp_path / "other", seed=11, rank=3)
    update(tmp_path / "m", add=other)
    assert weights_of(tmp_path / "m-v2") != weights_of(tmp_path / "m")
    update(tmp_path / "m-v2", remove="other")
    assert adapter_of(tmp_path / "m-v3") == adapter_of(tmp_path / "m")


def test_an_adapter_of_the_fit_removed_and_added_gives_back_the_earlier_bytes(
    zoo: Path, merged: Path
) -> None:
    record = update(merged, remove=["rslora", "partial"])
    assert len(record["adapters"]) == 3
    update(record["output"], add=[zoo / "partial", zoo / "rslora"])
    assert adapter_of(f"{merged}-v3") == adapter_of(merged)


def test_the_order_of_updates_is_free(merged: Path, new: Path, other: Path) -> None:
    first = update(merged, add=new)
    second = update(first["output"], add=other)
    swapped = update(update(merged, add=other, output=f"{merged}-o")["output"], add=new)
    at_once = update(merged, add=[new, other], output=f"{merged}-b")
    for record in (swapped, at_once):
        assert adapter_of(record["output"]) == adapter_of(second["output"])
    ids = {r["merge_id"] for r in (second, swapped, at_once)}
    assert len(ids) == 3  # each is a version of its own
    less = update(second["output"], remove=str(new))
    assert adapter_of(less["output"]) == adapter_of(f"{merged}-o")


def test_adding_and_removing_at_once(merged: Path, new: Path, other: Path) -> None:
    first = update(merged, add=new)
    swapped = update(first["output"], add=other, remove="new")
    assert swapped["added"] == [str(other)]
    assert swapped["removed"] == [str(new)]
    assert adapter_of(swapped["output"]) == adapter_of(
        update(merged, add=other, output=f"{merged}-o")["output"]
    )


def test_it_is_the_method_on_the_fits_centroids(tmp_path: Path) -> None:
    """Against plain float64 arithmetic on the rows of one site."""
    site = LINEAR[:1]
    rows = {}
    for number, (name, rank) in enumerate((("a", 4), ("b", 3), ("c", 5), ("new", 4))):
        where = tmp_path / ("zoo" if name != "new" else "more") / name
        write_adapter(where, seed=number, rank=rank, alpha=2.0, sites=site)
        tensors = load_file(where / WEIGHTS)
        key_a, key_b = site[0].keys()
        root = np.float32(np.sqrt(2.0 / rank))
        halves = (tensors[key_a].numpy(), tensors[key_b].numpy().T)
        rows[name] = np.concatenate(halves, axis=1).astype(np.float64) * root
    merge(tmp_path / "zoo", tmp_path / "m", catalog=tmp_path / "catalog", output_scale=1)
    labels: dict[str, list[int]] = {}
    query = "SELECT uri, cluster FROM msus JOIN adapters USING (adapter_id) ORDER BY rank_index"
    for row in lego_ray.catalog.sql(tmp_path / "catalog", query).to_pylist():
        labels.setdefault(Path(row["uri"]).name, []).append(row["cluster"])
    fit = np.concatenate([rows[name] for name in "abc"])
    label = np.concatenate([labels[name] for name in "abc"])
    centroids = np.stack([fit[label == c].mean(axis=0) for c in range(RANK)])
    gaps = ((rows["new"][:, None] - centroids) ** 2).sum(axis=2)
    everything = np.concatenate([fit, rows["new"]])
    label = np.concatenate([label, gaps.argmin(axis=1)])
    wanted = np.stack([everything[label == c].mean(axis=0) for c in range(RANK)])
    long = np.stack([np.abs(everything[label == c]).max(axis=1).mean() for c in range(RANK)])
    wanted *= (long / np.abs(wanted).max(axis=1))[:, None] * (16 / 4 / RANK) ** 0.25
    record = update(tmp_path / "m", add=tmp_path / "more")
    found = load_file(Path(record["output"]) / WEIGHTS)
    got = np.concatenate([found[key_a].numpy(), found[key_b].numpy().T], axis=1)
    # The rows are rounded when their scaling is folded in, and once more when they are written.
    assert np.allclose(got, wanted, rtol=0, atol=4 * FLOAT32 * np.abs(wanted).max())
    inertia = sum(
        ((everything[label == c] - everything[label == c].mean(axis=0)) ** 2).sum()
        for c in range(RANK)
    )
    [told] = record["site_drift"]
    assert told["inertia"] == pytest.approx(inertia, rel=1e-5)
    fitted = sum(((fit[label[:12] == c] - centroids[c]) ** 2).sum() for c in range(RANK))
    assert told["expected"] == pytest.approx(fitted * 16 / 12, rel=1e-5)
    assert record["drift"] == pytest.approx(told["inertia"] / told["expected"] - 1)


def test_a_version_is_as_long_as_its_sources(zoo: Path, new: Path, tmp_path: Path) -> None:
    """The rule `source-norm` is of the adapters that are in."""
    merge(zoo, tmp_path / "m", output_scale="source-norm")
    record = update(tmp_path / "m", add=new, remove="higher")
    sources = [update_of(zoo / name) for name in NAMES if name != "higher"] + [update_of(new)]
    for site, found in update_of(Path(record["output"])).items():
        wanted = [np.square(each[site]).sum() for each in sources if site in each]
        assert np.square(found).sum() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_only_the_adapters_that_change_are_read(
    zoo: Path, merged: Path, new: Path, other: Path
) -> None:
    shutil.move(zoo, zoo.parent / "elsewhere")
    sizes = sum((merged / n).stat().st_size for n in (STATE_KEY, "lego_ray_manifest.json"))
    added = update(merged, add=new)
    plan = lego_ray.plan(new, rank=RANK)
    assert added["bytes_read"] == sizes + lego_ray.scan(new)["bytes_read"] + plan.read_bytes
    place = Path(added["output"])
    sizes = sum((place / n).stat().st_size for n in (STATE_KEY, "lego_ray_manifest.json"))
    swapped = update(place, add=other, remove="new")
    changed = [lego_ray.scan(each)["bytes_read"] for each in (new, other)]
    plans = [lego_ray.plan(each, rank=RANK).read_bytes for each in (new, other)]
    assert swapped["bytes_read"] == sizes + sum(changed) + sum(plans)


def test_ray_gives_the_same_bytes(merged: Path, new: Path, other: Path, local_ray: None) -> None:
    alone = update(merged, add=[new, other], remove="plain")
    again = update(
        merged, add=[new, other], remove="plain", output=f"{merged}-ray", runner="ray", workers=2
    )
    assert adapter_of(alone["output"]) == adapter_of(again["output"])
    assert alone["merge_id"] == again["merge_id"]


def test_a_site_in_shards_leaves_the_same_sums(tmp_path: Path) -> None:
    zoo = write_wide_zoo(tmp_path / "zoo")
    merge(zoo, tmp_path / "whole", name="m")
    merge(zoo, tmp_path / "spread", name="m", memory_budget=budget_for(zoo, 3))
    whole, spread = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "spread")
    assert whole[WEIGHTS] == spread[WEIGHTS]
    added = write_adapter(tmp_path / "new", seed=77, rank=3, sites=_sites_like(tmp_path / "whole"))
    for name in ("whole", "spread"):
        update(tmp_path / name, add=added)
    assert weights_of(tmp_path / "whole-v2") == weights_of(tmp_path / "spread-v2")


def _sites_like(merged: Path) -> tuple[Site, ...]:
    tensors = load_file(merged / WEIGHTS)
    names = sorted({k.removeprefix("base_model.model.").partition(".lora_")[0] for k in tensors})
    return tuple(
        Site(
            name,
            tuple(tensors[f"base_model.model.{name}.lora_A.weight"].shape[1:]),
            tensors[f"base_model.model.{name}.lora_B.weight"].shape[0],
        )
        for name in names
    )


def test_the_catalog_has_the_version_its_parent_and_its_rows(
    zoo: Path, new: Path, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    first = merge(zoo, tmp_path / "m", catalog=catalog)
    second = update("m", add=new, catalog=catalog)
    third = update(second["merge_id"], remove="plain", catalog=catalog)
    rows = lego_ray.catalog.sql(catalog, "SELECT * FROM merges ORDER BY version").to_pylist()
    assert [r["merge_id"] for r in rows] == [r["merge_id"] for r in (first, second, third)]
    assert [r["version"] for r in rows] == [1, 2, 3]
    assert [r["parent_id"] for r in rows] == [None, first["merge_id"], second["merge_id"]]
    assert [r["drift"] for r in rows] == [None, second["drift"], third["drift"]]
    assert {r["name"] for r in rows} == {"m"}
    assert len(rows[1]["adapter_ids"]) == 6
    counts = lego_ray.catalog.sql(
        catalog,
        "SELECT m.merge_id, m.site, count(*) AS n, min(s.n_msus) AS wanted, max(m.cluster) AS top, "
        "min(s.rank) AS rank, sum(m.weight) AS weight, count(m.distance) AS distances "
        "FROM msus m JOIN merge_sites s ON m.merge_id = s.merge_id AND m.site = s.site "
        "GROUP BY m.merge_id, m.site",
    ).to_pylist()
    assert len(counts) == 12
    for row in counts:
        assert row["n"] == row["wanted"] == row["distances"]
        assert row["top"] == row["rank"] - 1
        assert row["weight"] == pytest.approx(row["rank"])
    [ids] = lego_ray.catalog.sql(
        catalog,
        f"SELECT count(DISTINCT adapter_id) AS n FROM msus WHERE merge_id = '{third['merge_id']}'",
    ).to_pylist()
    assert ids["n"] == 5
    lines = lego_ray.catalog.lineage(catalog, "m", version=2).to_pylist()
    assert str(new) in {line["uri"] for line in lines}


def test_the_manifest_says_where_it_comes_from(merged: Path, new: Path) -> None:
    record = update(merged, add=new)
    told = manifest(record["output"])
    assert told["version"] == 2
    assert told["parent"]["merge_id"] == manifest(merged)["merge_id"]
    assert told["parent"]["version"] == 1
    assert told["drift"] == record["drift"]
    assert len(told["sources"]) == 6
    assert lego_ray.verify(record["output"], sources=[merged.parent / "zoo", new])["ok"]
    assert manifest(merged)["merge_id"][:12] in (Path(record["output"]) / "README.md").read_text()


def test_the_same_update_again_is_left_as_it_is(merged: Path, new: Path) -> None:
    record = update(merged, add=new)
    before = files_of(merged.parent)
    again = update(merged, add=new)
    assert again["status"] == "already published"
    assert {k: again[k] for k in ("merge_id", "version", "drift", "added")} == {
        k: record[k] for k in ("merge_id", "version", "drift", "added")
    }
    assert files_of(merged.parent) == before


def test_another_update_to_the_same_place_is_refused(merged: Path, new: Path, other: Path) -> None:
    update(merged, add=new)
    before = files_of(merged.parent)
    with pytest.raises(OutputExists, match="another plan"):
        update(merged, add=other)
    assert files_of(merged.parent) == before


def test_nothing_to_do_says_so_and_writes_nothing(merged: Path) -> None:
    before = files_of(merged.parent)
    assert update(merged)["status"] == "nothing to do"
    assert files_of(merged.parent) == before


def refused(merged: Path, error: type[Exception], says: str, **options: Any) -> None:
    before = files_of(merged.parent)
    with pytest.raises(error, match=says):
        update(merged, **options)
    assert files_of(merged.parent) == before


def test_what_cannot_be_added(zoo: Path, merged: Path, tmp_path: Path) -> None:
    refused(merged, InvalidOption, "in .* already", add=zoo / "plain")
    shutil.copytree(zoo / "plain", tmp_path / "copy")
    refused(merged, InvalidOption, "already, as .*plain", add=tmp_path / "copy")
    write_adapter(tmp_path / "base", seed=11, base_model="another/base")
    refused(merged, BaseModelMismatch, "another/base", add=tmp_path / "base")
    wide = tuple(Site(s.name, (16,), s.d_out) for s in LINEAR)
    write_adapter(tmp_path / "wide", seed=11, sites=wide)
    refused(merged, SiteShapeMismatch, r"A \(r, 16\)", add=tmp_path / "wide")
    write_adapter(tmp_path / "turned", seed=11, fan_in_fan_out=True)
    refused(merged, SiteShapeMismatch, "fan_in_fan_out is true here", add=tmp_path / "turned")
    write_adapter(tmp_path / "dora", seed=11, use_dora=True)
    refused(merged, NoAdaptersFound, "DoRA", add=tmp_path / "dora")
    refused(merged, StrictRefusal, "DoRA", add=tmp_path / "dora", strict=True)
    elsewhere = (Site("layers.9.q_proj", (12,), 10),)
    write_adapter(tmp_path / "elsewhere", seed=11, sites=elsewhere)
    refused(merged, UpdateImpossible, "none of the merge's sites", add=tmp_path / "elsewhere")
    refused(merged, ObjectNotFound, "nothing there", add=tmp_path / "missing")
    write_kohya(tmp_path / "kohya" / "k.safetensors", seed=1)
    refused(merged, LayoutMismatch, "kohya", add=tmp_path / "kohya")
    spoil(write_adapter(tmp_path / "bad", seed=12), float("nan"))
    refused(merged, NoAdaptersFound, "NonFinite", add=tmp_path / "bad")
    shutil.rmtree(zoo / "plain")
    write_adapter(zoo / "plain", seed=99)
    refused(merged, InvalidOption, "changed since", add=zoo / "plain")


def test_what_cannot_be_removed(zoo: Path, merged: Path, tmp_path: Path) -> None:
    refused(merged, InvalidOption, "Did you mean plain", remove="plane")
    refused(merged, InvalidOption, "no adapter would be left", remove=NAMES)
    refused(merged, InvalidOption, "5 adapters", remove="*")
    shutil.rmtree(zoo / "plain")
    write_adapter(zoo / "plain", seed=99)
    refused(merged, VerificationFailed, "not the adapter that was merged", remove="plain")
    shutil.rmtree(zoo / "higher")
    refused(merged, ObjectNotFound, "nothing there.*add --refit", remove="higher")
    assert update(merged, remove="higher", refit=True)["removed"] == [str(zoo / "higher")]
    shutil.rmtree(f"{merged}-v2")


def test_an_adapter_is_removed_by_its_id(merged: Path) -> None:
    source = next(s for s in manifest(merged)["sources"] if s["uri"].endswith("/higher"))
    assert update(merged, remove=source["adapter_id"][:8])["removed"] == [source["uri"]]


def test_a_change_that_its_id_does_not_show_is_found(tmp_path: Path) -> None:
    """An id is taken over samples of the bytes; what goes is held against all of them."""
    wide = (Site("layers.0.q_proj", (60_000,), 6), Site("layers.0.v_proj", (60_000,), 6))
    for number in range(2):
        write_adapter(tmp_path / "zoo" / f"a{number}", seed=number + 1, sites=wide, rank=2)
    merge(tmp_path / "zoo", tmp_path / "m", rank=2)
    file = tmp_path / "zoo" / "a1" / WEIGHTS
    before = lego_ray.scan(tmp_path / "zoo" / "a1")["adapters"][0]["adapter_id"]
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2] = b"\x01\x02"
    file.write_bytes(data)
    assert lego_ray.scan(tmp_path / "zoo" / "a1")["adapters"][0]["adapter_id"] == before
    refused(tmp_path / "m", VerificationFailed, "sha256", remove="a1")


def test_an_adapter_that_turns_out_bad_is_left_out(merged: Path, new: Path, other: Path) -> None:
    spoil(other, float("nan"))
    record = update(merged, add=[new, other])
    assert [r["adapter"] for r in record["refused"]] == [str(other)]
    assert record["added"] == [str(new)]
    only = update(merged, add=new, output=f"{merged}-only")
    assert adapter_of(only["output"]) == adapter_of(record["output"])


def test_sites_the_merge_has_not_are_told(merged: Path, tmp_path: Path) -> None:
    sites = (*LINEAR, Site("layers.2.q_proj", (12,), 10))
    write_adapter(tmp_path / "more", seed=9, sites=sites)
    record = update(merged, add=tmp_path / "more")
    assert record["skipped_sites"] == ["layers.2.q_proj"]
    assert record["sites"] == 4
    again = update(merged, add=tmp_path / "more", refit=True, output=tmp_path / "again")
    assert again["sites"] == 5


def test_a_site_that_no_adapter_has_any_more_goes_and_comes_back(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    write_adapter(zoo / "whole", seed=1)
    write_adapter(zoo / "part", seed=2, missing=["layers.1.q_proj"])
    merge(zoo, tmp_path / "m", rank=8)
    less = update(tmp_path / "m", remove="whole")
    assert less["sites"] == 3
    assert lego_ray.scan(less["output"])["adapters"][0]["n_sites"] == 3
    update(less["output"], add=zoo / "whole")
    assert adapter_of(tmp_path / "m-v3") == adapter_of(tmp_path / "m")


def test_single_files_are_updated_too(tmp_path: Path) -> None:
    for number in range(3):
        write_kohya(tmp_path / "zoo" / f"k{number}.safetensors", seed=number)
    write_kohya(tmp_path / "more" / "new.safetensors", seed=9)
    merge(tmp_path / "zoo", tmp_path / "m")
    update(tmp_path / "m", add=tmp_path / "more")
    update(tmp_path / "m-v2", remove="new")
    found = [(tmp_path / place / "m.safetensors").read_bytes() for place in ("m", "m-v2", "m-v3")]
    assert found[0] == found[2] != found[1]
    assert len(lego_ray.scan(tmp_path / "m-v2")["adapters"]) == 1


def test_a_merge_without_running_sums_takes_a_refit(zoo: Path, new: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "m", updatable=False, catalog=tmp_path / "catalog")
    refused(tmp_path / "m", UpdateImpossible, "--refit", add=new)
    record = update(
        tmp_path / "m", add=new, remove="plain", refit=True, catalog=tmp_path / "catalog"
    )
    assert (record["version"], record["drift"]) == (2, 0.0)
    assert record["added"] == [str(new)]
    sources = [*(zoo / name for name in NAMES if name != "plain"), new]
    merge(sources, tmp_path / "alone", name="m")
    assert weights_of(record["output"]) == weights_of(tmp_path / "alone")
    [row] = lego_ray.catalog.sql(
        tmp_path / "catalog", "SELECT parent_id, version, drift FROM merges WHERE version = 2"
    ).to_pylist()
    assert row["parent_id"] == manifest(tmp_path / "m")["merge_id"]
    update(record["output"], remove="new")  # has running sums now


def test_a_refit_keeps_weights_and_methods_that_have_no_sums(
    zoo: Path, new: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "method": "svd",
        "weights": {"plain": 0.5, "rslora": 2.0},
        "updatable": False,
    }
    lego_ray.merge(zoo, output=tmp_path / "m", rank=RANK, runner="inline", **options)
    record = update(tmp_path / "m", add=new, remove="rslora", refit=True)
    sources = [*(zoo / name for name in NAMES if name != "rslora"), new]
    lego_ray.merge(
        sources,
        output=tmp_path / "alone",
        rank=RANK,
        runner="inline",
        name="m",
        method="svd",
        weights={"plain": 0.5},
    )
    assert weights_of(record["output"]) == weights_of(tmp_path / "alone")


def test_damaged_sums_are_not_used(merged: Path, new: Path) -> None:
    file = merged / STATE_KEY
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused(merged, VerificationFailed, "--refit", add=new)
    file.unlink()
    refused(merged, VerificationFailed, "--refit", add=new)


def test_what_is_no_merge(zoo: Path, tmp_path: Path, new: Path) -> None:
    with pytest.raises(ObjectNotFound, match=r"no lego_ray_manifest\.json"):
        update(zoo / "plain", add=new)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "lego_ray_manifest.json").write_text("{}")
    with pytest.raises(MalformedAdapter):
        update(tmp_path / "m", add=new)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "svd"}, "the svd method"),
        ({"distance": "rank-one"}, "rank-one"),
        ({"normalize": True}, "--normalize"),
        ({"output_scale": "sum-fit"}, "sum-fit"),
        ({"output_scale": "adaptive"}, "--output-scale adaptive"),
        ({"spectrum": "adaptive"}, "--spectrum adaptive"),
        ({"full_weights": "keep:plain"}, "full weights that are kept"),
    ],
    ids=str,
)
def test_what_no_sums_are_enough_for(
    zoo: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOption, match=says):
        lego_ray.merge(zoo, rank=2, output=tmp_path / "m", updatable=True, **options)
    assert not (tmp_path / "m").exists()


def test_an_updatable_merge_is_copied_with_its_sums(merged: Path, new: Path) -> None:
    copy = merged.parent / "copy"
    lego_ray.publish(merged, to=copy)
    update(copy, add=new)
    update(merged, add=new)
    assert adapter_of(f"{copy}-v2") == adapter_of(f"{merged}-v2")


def test_adapters_unlike_the_fits_drift_and_a_refit_is_advised(tmp_path: Path) -> None:
    """Copies of one adapter with a little noise, then one that has nothing of it."""
    generator = torch.Generator().manual_seed(0)
    base = load_file(write_adapter(tmp_path / "base", seed=1) / WEIGHTS)
    for number in range(6):
        where = write_adapter(tmp_path / ("zoo" if number < 4 else "like") / f"a{number}", seed=1)
        noisy = {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in base.items()}
        save_file(noisy, where / WEIGHTS, {"format": "pt"})
    merge(tmp_path / "zoo", tmp_path / "m")
    like = update(tmp_path / "m", add=tmp_path / "like")
    assert abs(like["drift"]) < 0.5
    unlike = write_adapter(tmp_path / "unlike", seed=2)
    record = update(tmp_path / "m", add=unlike, output=tmp_path / "other")
    assert record["drift"] > 100
    assert record["refit_advised"]


@pytest.mark.s3
def test_on_s3(s3_bucket: str, zoo: Path, new: Path, merged: Path) -> None:
    place, catalog = f"s3://{s3_bucket}/merged/m", f"s3://{s3_bucket}/catalog"
    merge(zoo, place, catalog=catalog)
    record = update(place, add=new, catalog=catalog)
    assert record["output"] == f"{place}-v2"
    local = update(merged, add=new)
    assert open_store(record["output"]).read(WEIGHTS) == weights_of(local["output"])
    rows = lego_ray.catalog.sql(catalog, "SELECT parent_id FROM merges WHERE version = 2")
    assert rows["parent_id"].to_pylist() == [record["parent"]]
