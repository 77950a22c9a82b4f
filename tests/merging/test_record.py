"""The record of a merge is read by attributes and by keys, and is what `--json` prints."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import lego_ray
from lego_ray import MergeRecord, UpdateRecord
from lego_ray.cli.main import cli
from tests.zoo import write_adapter, write_zoo

CLOCK = {"seconds", "bytes_read", "status", "runner"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    write_zoo(root / "zoo", 2)
    write_adapter(root / "zoo" / "broken <b>", seed=9)
    (root / "zoo" / "broken <b>" / "adapter_config.json").write_text("{")
    write_adapter(root / "new", seed=7)
    return root


@pytest.fixture(scope="module")
def record(place: Path) -> MergeRecord:
    return lego_ray.merge(
        place / "zoo", rank=2, output=place / "m", updatable=True, runner="inline"
    )


def without_clock(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in CLOCK}


def test_keys_are_attributes(record: MergeRecord) -> None:
    assert list(record) == [field.name for field in fields(MergeRecord)]
    assert record["status"] == record.status == "published"
    assert record["adapters"] == list(record.adapters)
    assert record == record.as_json() == {**record}
    assert record.get("nothing") is None
    with pytest.raises(KeyError):
        record["nothing"]
    with pytest.raises(FrozenInstanceError):
        record.status = "other"  # type: ignore[misc]


def test_it_is_a_dictionary_that_does_not_change(record: MergeRecord) -> None:
    assert json.loads(json.dumps({"record": record})) == {"record": record}
    copied = dict(record)
    copied["status"] = "mine"
    assert record.copy() == pickle.loads(pickle.dumps(record)) == deepcopy(record) == record
    assert type(deepcopy(record)) is MergeRecord
    ior: Callable[..., object] = operator.ior
    changes: tuple[Callable[[], object], ...] = (
        lambda: operator.setitem(record, "status", "mine"),
        lambda: operator.delitem(record, "status"),
        lambda: ior(record, copied),
        lambda: record.update(copied),
        lambda: record.pop("status"),
        record.popitem,
        record.clear,
        lambda: record.setdefault("mine", 1),
    )
    for change in changes:
        with pytest.raises(TypeError, match=r"MergeRecord does not change; .* dict\(record\)"):
            change()
    assert record["status"] == "published"


def test_it_is_what_the_command_prints(place: Path, record: MergeRecord) -> None:
    words = [
        "merge",
        str(place / "zoo"),
        "--rank",
        "2",
        "--output",
        str(place / "m"),
        "--updatable",
    ]
    done = CliRunner().invoke(cli, [*words, "--runner", "inline", "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert list(printed) == list(record)
    assert without_clock(printed) == without_clock(json.loads(json.dumps(record.as_json())))
    assert printed["status"] == "already published"


def test_it_is_short_and_a_table_in_a_notebook(record: MergeRecord) -> None:
    assert repr(record).startswith("<MergeRecord m: published, 2 adapters, ")
    assert len(repr(record)) < 200 + len(record.output)
    page = record._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") >= 5
    assert "<b>" not in page


def test_a_record_of_an_update_has_more(place: Path, record: MergeRecord) -> None:
    after = lego_ray.update(place / "m", add=place / "new", runner="inline")
    assert isinstance(after, UpdateRecord)
    assert isinstance(after, MergeRecord)
    assert (after.version, after["parent"]) == (2, record.merge_id)
    assert after["added"] == list(after.added) == [str(place / "new")]
    nothing = lego_ray.update(place / "m", runner="inline")
    assert nothing.status == "nothing to do"
    assert list(nothing) == list(after) == [field.name for field in fields(UpdateRecord)]


def test_a_plan_of_a_library_says_what_is_known_before(place: Path) -> None:
    recipe = {"sources": [str(place / "zoo")], "merges": [{"name": "all", "rank": 2}]}
    (place / "library.yaml").write_text(yaml.safe_dump(recipe))
    planned = lego_ray.build(
        place / "library.yaml", output=place / "library", dry_run=True, runner="inline"
    )
    [merge] = planned["merges"]
    assert merge["status"] == "planned"
    assert not {"seconds", "bytes_read", "resumed_sites"} & set(merge)
    assert json.loads(json.dumps(planned)) == planned.as_json() == planned
