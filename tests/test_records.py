"""What calls return is read by attributes and by keys, and is what `--json` prints."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import MissingPackage
from lego_ray.records import Record, TableRecord, arrow_table, rows_table
from tests.zoo import write_adapter, write_zoo

# What two calls of the same need not agree about.
CLOCK = {"seconds", "bytes_read", "status", "new", "started_at", "saved_at"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    write_zoo(root / "zoo", 3)
    write_adapter(root / "zoo" / "broken <b>", seed=9)
    (root / "zoo" / "broken <b>" / "adapter_config.json").write_text("{")
    recipe = {
        "sources": [str(root / "zoo")],
        "merges": [{"name": "all", "rank": 2}],
        "output": str(root / "library"),
        "catalog": str(root / "catalog"),
    }
    (root / "library.yaml").write_text(yaml.safe_dump(recipe))
    lego_ray.refresh(root / "library.yaml", runner="inline")
    lego_ray.merge(
        root / "zoo", rank=2, output=root / "m", catalog=root / "catalog", runner="inline"
    )
    lego_ray.merge(root / "zoo", rank=3, output=root / "other", runner="inline")
    write_base(root / "m", root / "base")
    return root


def write_base(adapter: Path, base: Path) -> None:
    """A base model of zeros that has the modules of an adapter."""
    tensors: dict[str, torch.Tensor] = {}
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, a in factors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = factors[name.replace("lora_A", "lora_B")]
            tensors[f"{module}.weight"] = torch.zeros(b.shape[0], a.shape[1])
    base.mkdir()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text('{"model_type": "llama"}')


Call = tuple[type[Record], Callable[[Path], Any], Callable[[Path], list[str]]]

CALLS: dict[str, Call] = {
    "scan": (
        lego_ray.ScanRecord,
        lambda at: lego_ray.scan(at / "zoo"),
        lambda at: ["scan", str(at / "zoo")],
    ),
    "inspect": (
        lego_ray.InspectRecord,
        lambda at: lego_ray.inspect(at / "zoo"),
        lambda at: ["inspect", str(at / "zoo")],
    ),
    "build": (
        lego_ray.LibraryRecord,
        lambda at: lego_ray.build(at / "library.yaml", runner="inline", dry_run=True),
        lambda at: ["build", str(at / "library.yaml"), "--runner", "inline", "--dry-run"],
    ),
    "refresh": (
        lego_ray.RefreshRecord,
        lambda at: lego_ray.refresh(at / "library.yaml", runner="inline"),
        lambda at: ["refresh", str(at / "library.yaml"), "--runner", "inline"],
    ),
    "status": (
        lego_ray.StatusRecord,
        lambda at: lego_ray.status(at / "m"),
        lambda at: ["status", str(at / "m")],
    ),
    "library status": (
        lego_ray.LibraryStatus,
        lambda at: lego_ray.library_status(at),
        lambda at: ["status", str(at)],
    ),
    "verify": (
        lego_ray.Verification,
        lambda at: lego_ray.verify(at / "m", sources=at / "zoo"),
        lambda at: ["verify", str(at / "m"), "--sources", str(at / "zoo")],
    ),
    "report": (
        lego_ray.ReportRecord,
        lambda at: lego_ray.report(at / "m", output=at / "page.html", catalog=at / "catalog"),
        lambda at: [
            *("report", str(at / "m"), "--output", str(at / "page.html")),
            *("--catalog", str(at / "catalog")),
        ],
    ),
    "compare": (
        lego_ray.MergeComparison,
        lambda at: lego_ray.compare([at / "m", at / "other"], catalog=at / "catalog"),
        lambda at: [
            *("compare", str(at / "m"), str(at / "other")),
            *("--catalog", str(at / "catalog")),
        ],
    ),
    "publish": (
        lego_ray.PublishRecord,
        lambda at: lego_ray.publish(at / "m", to=at / "copy", dry_run=True),
        lambda at: ["publish", str(at / "m"), "--to", str(at / "copy"), "--dry-run"],
    ),
    "bake": (
        lego_ray.BakeRecord,
        lambda at: lego_ray.bake(at / "m", base=at / "base", output=at / "baked", dry_run=True),
        lambda at: [
            *("bake", str(at / "m"), "--base", str(at / "base")),
            *("--output", str(at / "baked"), "--dry-run"),
        ],
    ),
    "check": (
        lego_ray.CatalogCheck,
        lambda at: lego_ray.check_catalog(at / "catalog"),
        lambda at: ["catalog", "check", "--catalog", str(at / "catalog")],
    ),
    "repair": (
        lego_ray.CatalogRepair,
        lambda at: lego_ray.repair_catalog(at / "catalog"),
        lambda at: ["catalog", "repair", "--catalog", str(at / "catalog")],
    ),
    "adopt": (
        lego_ray.AdoptRecord,
        lambda at: lego_ray.adopt_merge(at / "m", catalog=at / "catalog"),
        lambda at: ["catalog", "adopt", str(at / "m"), "--catalog", str(at / "catalog")],
    ),
    "gc": (
        lego_ray.Garbage,
        lambda at: lego_ray.collect_garbage(at / "catalog", at / "zoo"),
        lambda at: ["catalog", "gc", "--catalog", str(at / "catalog"), "--root", str(at / "zoo")],
    ),
}


def without_clock(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    if isinstance(value, list):
        return [without_clock(each) for each in value]
    return value


@pytest.mark.parametrize("verb", CALLS)
def test_a_call_returns_what_its_command_prints(place: Path, verb: str) -> None:
    kind, call, words = CALLS[verb]
    record = call(place)
    assert type(record) is kind
    assert list(record) == [field.name for field in fields(kind)]
    for name, value in record.items():
        found = getattr(record, name)
        assert value == (list(found) if isinstance(found, tuple) else found)
    told = record.as_json()
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(told)) == told == record
    assert not any(isinstance(each, Record) for each in values_in(told))
    done = CliRunner().invoke(cli, [*words(place), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert list(printed) == list(told)
    assert without_clock(printed) == without_clock(told)


@pytest.mark.parametrize("verb", CALLS)
def test_a_record_is_short_and_a_table_in_a_notebook(place: Path, verb: str) -> None:
    kind, call, _ = CALLS[verb]
    record = call(place)
    assert repr(record).startswith(f"<{kind.__name__} ")
    assert len(repr(record)) < 200 + len(str(place))
    page = record._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") >= 5
    assert "<b>" not in page
    assert type(deepcopy(record)) is kind
    assert pickle.loads(pickle.dumps(record)) == record


def test_a_plan_is_short_and_a_table_in_a_notebook(place: Path) -> None:
    plan = lego_ray.plan(place / "zoo", rank=2)
    assert type(plan) is lego_ray.Plan
    assert repr(plan) == f"<Plan merge: lego, 3 adapters, 4 sites, rank 2, {plan.digest[:12]}>"
    assert "<th>adapters</th><td>3</td>" in plan._repr_html_()


# Of each call whose record is a table, the column that names its rows.
TABLES = {
    "scan": "adapter_id",
    "inspect": "uri",
    "build": "name",
    "refresh": "version",
    "library status": "merge_id",
    "verify": "site",
    "compare": "label",
    "check": "problem",
}


@pytest.mark.parametrize("verb", TABLES)
def test_a_record_that_is_a_table_is_one_of_arrow(place: Path, verb: str) -> None:
    record = CALLS[verb][1](place)
    assert isinstance(record, TableRecord)
    found = record.to_arrow()
    rows = record._rows()
    assert found.num_rows == len(rows)
    assert found[TABLES[verb]].to_pylist() == [row[TABLES[verb]] for row in rows]
    assert set(record.columns) <= set(found.column_names)
    assert bool(rows) == (verb != "check")
    if rows:
        assert record._repr_html_().count("<table>") == 2


def test_tables_hold_maps_and_values_without_a_common_type() -> None:
    rows: list[dict[str, Any]] = [
        {"tags": {"a": "1"}, "rank": 8},
        {"tags": {}, "rank": "auto"},
        {"tags": None},
    ]
    found = arrow_table(rows, ["rank", "none"])
    assert found.column_names == ["rank", "none", "tags"]
    assert found["tags"].to_pylist() == [[("a", "1")], [], None]
    assert found["rank"].to_pylist() == ["8", "auto", None]
    assert found["none"].null_count == 3


def test_pandas_is_asked_for_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = lego_ray.scan(place / "zoo")
    plan = lego_ray.plan(place / "zoo", rank=2)
    assert plan.to_arrow()["adapter"].to_pylist() == [a.uri for a in plan.adapters]
    monkeypatch.setattr("lego_ray.records.find_spec", lambda name: None)
    for found in (record, plan):
        with pytest.raises(MissingPackage, match="pip install pandas"):
            found.to_pandas()


def test_a_notebook_shows_what_was_refused(place: Path) -> None:
    record = lego_ray.scan(place / "zoo")
    for page in (record._repr_html_(), lego_ray.plan(place / "zoo", rank=2)._repr_html_()):
        assert "<strong>1 refused</strong>" in page
        assert "broken &lt;b&gt;" in page.partition("1 refused")[2]
    detail = lego_ray.catalog.show(place / "catalog", "all")
    assert "<caption>all version 1</caption>" in detail._repr_html_()


def test_records_inside_records_have_attributes(place: Path) -> None:
    found = lego_ray.verify(place / "m", sources=place / "zoo")
    assert found.errors is not None
    assert found.errors.sites[0].site == found["errors"]["sites"][0]["site"]
    assert found.errors.sources[0].norm == found["errors"]["sources"][0]["norm"] > 0
    again = lego_ray.refresh(place / "library.yaml", runner="inline")
    assert again.merges[0].version == again["merges"][0]["version"] == 1
    assert isinstance(again.merges[0], lego_ray.MergeRecord)


def test_every_public_name_says_what_it_is() -> None:
    for name in set(lego_ray.__all__) - {"catalog"}:
        assert getattr(lego_ray, name).__doc__.strip(), name


def values_in(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [value, *(inner for each in value.values() for inner in values_in(each))]
    if isinstance(value, list):
        return [value, *(inner for each in value for inner in values_in(each))]
    return [value]


def test_one_bar_shows_calls_that_count_and_merges(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = lego_ray.ProgressBar("scan", "adapter")
    lego_ray.scan(place / "zoo", progress=bar)
    lego_ray.merge(place / "zoo", rank=2, output=tmp_path / "qa", runner="inline", progress=bar)
    shown = capsys.readouterr().err
    assert "scan: 100%" in shown
    assert "4/4" in shown.rpartition("qa: 100%")[2]
    with lego_ray.ProgressBar("half") as half:
        half(1, 2)
    assert "1/2" in capsys.readouterr().err


def test_a_notebook_shows_short_lists_and_counts_long_ones() -> None:
    rows = [{"module": "q", "kept": [0.5, 0.25], "all": list(range(9)), "deep": [{"a": 1}]}]
    page = rows_table(rows)
    assert "<td>0.5, 0.25</td><td>[9]</td><td>[1]</td>" in page
