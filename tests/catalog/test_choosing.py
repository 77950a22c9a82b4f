"""Conditions over adapters: tags by name, nothing else in reach."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from lego_ray.catalog.choosing import decide as choose
from lego_ray.catalog.schema import TABLES
from lego_ray.errors import QueryError


def adapters(*rows: dict[str, Any]) -> pa.Table:
    common = {"status": "ok", "scanned_at": datetime(2026, 1, 1, tzinfo=UTC)}
    schema = TABLES["adapters"].schema
    return pa.Table.from_pylist(
        [
            {**common, "uri": f"/zoo/{i}", **row, "tags": list(row.get("tags", {}).items())}
            for i, row in enumerate(rows)
        ],
        schema=schema,
    )


ZOO = adapters(
    {"uri": "/zoo/fr-1", "rank_max": 8, "tags": {"task": "summarize", "Language": "fr"}},
    {"uri": "/zoo/fr-2", "rank_max": 16, "tags": {"task": "summarize"}},
    {"uri": "s3://b/de-1", "rank_max": 32, "tags": {"task": "summarize", "language": "de"}},
    {"uri": "/zoo/none", "rank_max": 4, "license": "mit"},
)


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("tags.task = 'summarize' and rank <= 16", [0, 1]),
        ("tags.language = 'de' OR license = 'mit'", [2, 3]),
        ("tags.language = 'fr'", [0]),
        ("name LIKE 'fr-%'", [0, 1]),
        ("uri LIKE 's3://%' -- a comment", [2]),
        ("rank = (SELECT max(rank) FROM adapters)", [2]),
        ("false", []),
    ],
)
def test_a_condition_chooses_rows_in_order(where: str, chosen: list[int]) -> None:
    assert choose(ZOO, where) == chosen


@pytest.mark.parametrize(
    "where",
    [
        "tags.topic = 'x'",
        "rnk = 3",
        "",
        "true); DROP TABLE adapters; SELECT (1",
        "uri IN (SELECT * FROM read_csv('/etc/passwd'))",
        "uri IN (SELECT content FROM read_text('/etc/hostname'))",
        "rank <",
    ],
)
def test_what_cannot_be_decided_says_what_there_is(where: str) -> None:
    with pytest.raises(QueryError) as caught:
        choose(ZOO, where)
    assert caught.value.exit_code == 2
    if "tags" in where:
        assert "Tags: Language, task." in str(caught.value)


def test_a_zoo_without_tags_has_none_to_ask_for() -> None:
    bare = adapters({"rank_max": 4}, {"rank_max": 8})
    assert choose(bare, "rank > 4") == [1]
    with pytest.raises(QueryError, match="No adapter has tags"):
        choose(bare, "tags.task = 'x'")


@pytest.mark.parametrize("where", ["tags['x'] = 'y'", "tags.x = 'y'", 'TAGS."x" IS NULL'])
def test_a_tag_that_no_adapter_has_is_named_with_what_to_do(where: str) -> None:
    with pytest.raises(QueryError, match="asks for the tag x, and no adapter has tags") as caught:
        choose(adapters({}, {}), where)
    assert "tags_from_folders" in caught.value.hint
    assert "Binder" not in str(caught.value)
    with pytest.raises(QueryError, match="asks for the tag x, which no adapter has") as caught:
        choose(ZOO, where)
    assert caught.value.hint == "Tags: Language, task."
    with pytest.raises(QueryError, match="the tag taks") as caught:
        choose(ZOO, "tags.taks = 'summarize'")
    assert caught.value.hint.startswith("Did you mean task?")
