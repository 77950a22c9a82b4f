"""`lego-ray catalog` on a terminal: times are whole, tables fit, a merge is read and not decoded."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import lego_ray
from lego_ray.cli.main import main
from lego_ray.cli.printing import print_table
from lego_ray.errors import NotRecordedYet
from tests.zoo import write_zoo

See = Callable[..., list[str]]
TIME = re.compile(r"(?<!\S)20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(?!\S)")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("terminal")
    write_zoo(root / "zoo", 3)
    lego_ray.merge(
        root / "zoo",
        rank=4,
        output=root / "out",
        name="a-merge-of-support",
        catalog=root / "catalog",
        runner="inline",
    )
    return root


@pytest.fixture
def see(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> See:
    """What a command shows on a terminal of so many columns; None for a pipe."""

    def shown(width: int | None, *words: object) -> list[str]:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: width is not None, raising=False)
        monkeypatch.setattr(
            "shutil.get_terminal_size", lambda fallback: os.terminal_size((width or 0, 24))
        )
        capsys.readouterr()
        main(["catalog", *map(str, words), "--catalog", str(place / "catalog")])
        return capsys.readouterr().out.splitlines()

    return shown


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_times_are_whole_and_tables_fit(see: See, width: int) -> None:
    for words in (("list",), ("log",)):
        head, *rows = see(width, *words)
        assert max(map(len, [head, *(r for r in rows if not r.startswith("(no room"))])) <= width
        listed = [row for row in rows if not row.startswith("(no room")]
        assert all(TIME.search(row) for row in listed), rows
        assert any(row.startswith("(no room for ") for row in rows) == (width < 105)
        assert "seconds" in head or "event" in head or width < 105


def test_a_pipe_has_every_column(see: See) -> None:
    columns = [
        "name",
        "version",
        "method",
        "rank",
        "created_at",
        "seconds",
        "output_uri",
        "merge_id",
    ]
    assert see(None, "list")[0].split() == columns
    assert not [line for line in see(None, "list") if "no room" in line]


def test_columns_without_a_value_are_left_out_before_any_other(
    see: See, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((80, 24)))
    capsys.readouterr()
    print_table(("name", "group", "n"), [("a", None, 1)], spare=("n", "group"))
    assert "group" not in (out := capsys.readouterr().out)
    assert "no room" not in out
    print_table(("name", "group"), [], spare=("group",))
    assert "group" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, None])
def test_a_merge_is_shown_to_be_read(see: See, place: Path, width: int | None) -> None:
    lines = see(width, "show", "a-merge-of-support")
    text = "\n".join(lines)
    assert not re.search(r'[{}]|\["|":', text), "no JSON"
    assert re.search(r"^adapters +3$", text, re.M)
    assert re.search(r"^options\.n_init +10$", text, re.M)
    assert re.search(r"^solve +\d", text, re.M)
    assert re.search(rf"^published +{TIME.pattern}$", text, re.M)
    assert max(map(len, lines)) <= 100 or width is None
    [row] = lego_ray.catalog.list_merges(place / "catalog").to_pylist()
    for value in (row["merge_id"], row["content_hash"], row["output_uri"]):
        assert value in text
    told = json.loads("".join(see(width, "show", "a-merge-of-support", "--json")))
    assert set(told) == {"merge", "summary", "sites", "groups"}
    assert told["merge"]["adapter_ids"] == row["adapter_ids"]


def test_lineage_has_the_share_of_each_adapter(see: See, place: Path) -> None:
    lines = see(80, "lineage", "a-merge-of-support")
    assert "share" in lines[0].split()
    shares = [float(found) for found in re.findall(r"([\d.]+) %", "\n".join(lines))]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(100, abs=0.2)  # each rounded to one digit
    table = lego_ray.catalog.lineage(place / "catalog", "a-merge-of-support")
    weights, parts = table["weight"].to_pylist(), table["share"].to_pylist()
    assert parts == pytest.approx([weight / sum(weights) for weight in weights])
    held = lego_ray.catalog.merges_with(place / "catalog", "a0")
    [row] = [r for r in table.to_pylist() if r["uri"].endswith("a0")]
    assert held["share"].to_pylist() == pytest.approx([row["share"]])
    told = json.loads("".join(see(80, "lineage", "a-merge-of-support", "--json")))
    assert told["rows"][0]["share"] == parts[0]


def test_before_the_first_row_of_a_merge_the_answer_is_empty_and_says_so(
    see: See, place: Path
) -> None:
    for words in (("show",), ("lineage",)):
        then = (*words, "a-merge-of-support", "--at", "1d")
        [line] = see(80, *then)
        assert line.startswith("(none) a-merge-of-support: it was not in the catalog at ")
        assert "version 1 of a-merge-of-support was recorded at 20" in line
        told = json.loads("".join(see(80, *then, "--json")))
        assert not any(told.values())
    [row] = lego_ray.catalog.list_merges(place / "catalog").to_pylist()
    early = datetime.now(UTC) - timedelta(days=1)
    for name in ("a-merge-of-support", row["merge_id"][:12]):
        with pytest.raises(NotRecordedYet, match="was recorded at"):
            lego_ray.catalog.show(place / "catalog", name, at=early)
    with pytest.raises(lego_ray.errors.InvalidOption, match="no merge has this name") as caught:
        lego_ray.catalog.show(place / "catalog", "never", at=early)
    assert not isinstance(caught.value, NotRecordedYet)
    assert lego_ray.catalog.merges_with(place / "catalog", "a0", at=early).num_rows == 0
    assert see(80, "lineage", "--adapter", "a0", "--at", "1d")[-1] == "(none)"
