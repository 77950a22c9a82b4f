"""A library: each merge is what `merge` makes alone, and each adapter's bytes are read once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.errors import (
    BadInput,
    InvalidOption,
    NoAdaptersFound,
    ObjectNotFound,
    OutputExists,
    QueryError,
    RecipeError,
    UnsupportedUri,
)
from lego_ray.planning.joint import cut_jointly
from tests.merging.test_bad_adapters import spoil
from tests.zoo import files_of, mixed_zoo, weights_of, write_adapter

RECIPE = """
sources: [{zoo}]
catalog: {catalog}
defaults: {{rank: 4, options: {{n_init: 2}}}}
merges:
  - name: everything
  - name: few
    adapters: [plain, rslora, part*]
    weights: {{rslora: 0.5}}
    rank: 3
  - name: sum
    method: svd
    exclude: [higher]
    output_scale: source-norm
  - name: measured
    rank: auto
    rank_error: 0.5
"""


def build(tmp_path: Path, text: str = RECIPE, **options: Any) -> dict[str, Any]:
    place = tmp_path / "library.yaml"
    place.write_text(text.format(zoo=tmp_path / "zoo", catalog=tmp_path / "catalog"))
    return lego_ray.build(place, **{"output": tmp_path / "out", "runner": "inline", **options})


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return mixed_zoo(tmp_path / "zoo")


def alone(zoo: Path, output: Path) -> dict[str, Path]:
    """The library's merges, each by itself."""
    common: dict[str, Any] = {"runner": "inline"}
    lego_ray.merge(zoo, rank=4, n_init=2, output=output / "everything", **common)
    lego_ray.merge(
        [zoo / name for name in ("plain", "rslora", "partial")],
        rank=3,
        n_init=2,
        weights={"rslora": 0.5},
        output=output / "few",
        **common,
    )
    lego_ray.merge(
        zoo,
        rank=4,
        method="svd",
        exclude=["higher"],
        output_scale="source-norm",
        output=output / "sum",
        **common,
    )
    lego_ray.merge(zoo, rank="auto", rank_error=0.5, n_init=2, output=output / "measured", **common)
    return {name: output / name for name in ("everything", "few", "sum", "measured")}


def test_each_merge_is_what_it_is_alone(zoo: Path, tmp_path: Path) -> None:
    record = build(tmp_path)
    assert [m["name"] for m in record["merges"]] == ["everything", "few", "sum", "measured"]
    for name, wanted in alone(zoo, tmp_path / "alone").items():
        assert weights_of(tmp_path / "out" / name) == weights_of(wanted), name
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT name FROM merges ORDER BY name")
    assert rows["name"].to_pylist() == ["everything", "few", "measured", "sum"]
    for name in ("everything", "few"):
        assert lego_ray.verify(tmp_path / "out" / name, sources=zoo)["ok"]


def test_each_byte_is_read_once_for_all_merges(zoo: Path, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("  - name: measured")]
    scanned = lego_ray.scan(zoo)["bytes_read"]
    tensors = lego_ray.plan(zoo, rank=4).read_bytes
    record = build(tmp_path, text)
    assert record["bytes_read"] == scanned + tensors


def test_to_choose_ranks_reads_once_more(zoo: Path, tmp_path: Path) -> None:
    tensors = lego_ray.plan(zoo, rank=4).read_bytes
    assert build(tmp_path)["bytes_read"] == lego_ray.scan(zoo)["bytes_read"] + 2 * tensors


def test_built_again_nothing_is_read_or_written(zoo: Path, tmp_path: Path) -> None:
    build(tmp_path)
    before = files_of(tmp_path / "out"), files_of(tmp_path / "catalog")
    record = build(tmp_path)
    assert {m["status"] for m in record["merges"]} == {"already published"}
    assert record["bytes_read"] == lego_ray.scan(zoo)["bytes_read"]
    assert (files_of(tmp_path / "out"), files_of(tmp_path / "catalog")) == before


def test_a_merge_that_is_added_is_the_only_one_made(zoo: Path, tmp_path: Path) -> None:
    first = RECIPE[: RECIPE.index("  - name: sum")]
    build(tmp_path, first)
    record = build(tmp_path)
    assert [m["status"] for m in record["merges"]] == [
        *["already published"] * 2,
        "published",
        "published",
    ]


@pytest.mark.ray
def test_ray_gives_the_same_bytes(zoo: Path, tmp_path: Path, local_ray: None) -> None:
    build(tmp_path)
    build(tmp_path, output=tmp_path / "ray", catalog=tmp_path / "other", runner="ray")
    for name in ("everything", "few", "sum", "measured"):
        assert weights_of(tmp_path / "ray" / name) == weights_of(tmp_path / "out" / name)


def test_what_does_not_fit_together_is_made_apart_to_the_same_bytes(
    zoo: Path, tmp_path: Path
) -> None:
    text = RECIPE[: RECIPE.index("  - name: sum")]
    build(tmp_path, text)
    sites = [s for g in lego_ray.plan(zoo, rank=4, n_init=2).tasks for s in g.sites]
    largest = max(sites, key=lambda site: site.peak_bytes)
    budget = largest.peak_bytes
    plan = lego_ray.plan(zoo, rank=4, n_init=2, memory_budget=budget)
    cut, joint = cut_jointly([plan, plan], budget)
    together = {s.site for group in joint for n, at in group.parts for s in cut[n].tasks[at].sites}
    assert largest.site not in together  # with the tensors it is more than its merge alone takes
    assert {s.site for g in cut[0].tasks for s in g.sites} == {site.site for site in sites}
    small = {"output": tmp_path / "small", "catalog": tmp_path / "other"}
    record = build(tmp_path, text, memory_budget=budget, **small)
    assert record["bytes_read"] > lego_ray.scan(zoo)["bytes_read"] + plan.read_bytes
    for name in ("everything", "few"):
        assert weights_of(tmp_path / "small" / name) == weights_of(tmp_path / "out" / name)


def test_a_bad_adapter_is_left_out_of_every_merge_that_has_it(zoo: Path, tmp_path: Path) -> None:
    spoil(write_adapter(zoo / "partner", seed=9), float("nan"))  # `part*` means it too
    record = build(tmp_path)
    shutil.rmtree(zoo / "partner")
    wanted = alone(zoo, tmp_path / "alone")
    for merge in record["merges"]:
        assert [r["adapter"] for r in merge["refused"]] == [str(zoo / "partner")], merge["name"]
        assert weights_of(merge["output"]) == weights_of(wanted[merge["name"]])


@pytest.mark.parametrize(
    ("merges", "error", "says"),
    [
        ("[{name: a, rank: 4, adapters: [plaim]}]", NoAdaptersFound, "Did you mean plain?"),
        ("[{name: a, rank: 4, where: rank > 99}]", NoAdaptersFound, "rank > 99 matches none"),
        ("[{name: a, rank: 4, where: rnk > 9}]", QueryError, "rnk"),
        ("[{name: a, rank: 4}, {name: b, rank: 1, method: tsv}]", InvalidOption, "merge b, "),
        (
            "[{name: a, rank: 4, output: x}, {name: b, rank: 4, output: x}]",
            InvalidOption,
            "so does a",
        ),
        ("[{name: a, rank: 4, nme: x}]", RecipeError, "Did you mean name?"),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_written(
    merges: str, error: type[BadInput], says: str, zoo: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        build(
            tmp_path,
            "sources: [{zoo}]\ncatalog: {catalog}\nmerges: "
            + merges.replace("{", "{{").replace("}", "}}"),
            strict=True,
        )
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "catalog").exists()


def test_a_library_without_an_output_says_so(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="merge everything has no output"):
        build(tmp_path, output=None)
    with pytest.raises(ObjectNotFound):
        lego_ray.build(tmp_path / "none.yaml")


def test_if_strict_an_output_of_another_plan_is_refused_before_any_is_made(
    zoo: Path, tmp_path: Path
) -> None:
    lego_ray.merge(zoo, rank=2, n_init=1, output=tmp_path / "out/few", runner="inline")
    with pytest.raises(OutputExists):
        build(tmp_path, strict=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["few"]


def test_a_catalog_gives_the_sources(zoo: Path, tmp_path: Path) -> None:
    lego_ray.scan(zoo, catalog=tmp_path / "catalog")
    text = "catalog: {catalog}\nmerges: [{{name: a, rank: 4, where: rank >= 1, options: {{n_init: 2}}}}]"
    build(tmp_path, text)
    lego_ray.merge(zoo, rank=4, n_init=2, output=tmp_path / "a", runner="inline")
    assert weights_of(tmp_path / "out/a") == weights_of(tmp_path / "a")


@pytest.mark.parametrize("place", ["/", "s3://bucket", "hf://owner/name", "hf://owner/name@v1"])
def test_a_whole_store_is_not_a_recipe_file(place: str) -> None:
    with pytest.raises(UnsupportedUri, match="the root of a store, not a recipe file"):
        lego_ray.build(place, runner="inline")
