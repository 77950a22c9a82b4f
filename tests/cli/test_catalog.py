"""`lego-ray catalog` as people and scripts use it, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lego_ray
from lego_ray.catalog.schema import SCHEMA_VERSION
from lego_ray.cli.main import main
from tests.catalog.sample import adapter, merge
from tests.catalog.version_one import write_table
from tests.zoo import write_zoo

Answer = tuple[int, str, str]
Ask = Callable[..., Answer]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs the command line and returns its exit status, stdout and stderr."""

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["lego-ray", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run


def merged(where: Path, output: str, **options: Any) -> dict[str, Any]:
    given = {"rank": 4, "runner": "inline", "n_init": 1, "catalog": where / "catalog", **options}
    return lego_ray.merge(where / "zoo", output=where / "out" / output, **given)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of two and two versions of the merge `m`; for questions, which change nothing."""
    here = tmp_path_factory.mktemp("asked")
    write_zoo(here / "zoo", 2)
    merged(here, "first", name="m")
    merged(here, "second", name="m", seed=1)
    return here


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The same, to be changed: one merge that is recorded, and one that is not."""
    write_zoo(tmp_path / "zoo", 2)
    merged(tmp_path, "recorded")
    merged(tmp_path, "forgotten", catalog=None, seed=1)
    return tmp_path


def test_show_takes_a_version(shared: Path, ask: Ask) -> None:
    where = ("--catalog", shared / "catalog", "--json")
    for words, version in (((), 2), (("--version", 1), 1)):
        status, out, _ = ask("catalog", "show", "m", *words, *where)
        assert status == 0
        shown = json.loads(out)["merge"]
        assert shown["version"] == version
        assert shown["licenses"] == ["unknown"]
        assert shown["n_msus"] == 32


def test_values_that_json_lacks_are_null_or_text(shared: Path, ask: Ask) -> None:
    query = """SELECT 'nan'::double AS nan, [1.0 / 0, 1.5] AS list, {'a': -1.0 / 0} AS struct,
        MAP {'k': 'inf'::float} AS map, MAP {1: 2} AS keys, '2020-01-02'::date AS day,
        '12:00:01'::time AS time, 1.50::decimal(4, 2) AS decimal, 'x'::blob AS bytes, 2 AS number"""
    status, out, err = ask("catalog", "sql", query, "--catalog", shared / "catalog", "--json")
    assert (status, err) == (0, "")
    [row] = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["rows"]
    assert row == {
        "nan": None,
        "list": [None, 1.5],
        "struct": {"a": None},
        "map": {"k": None},
        "keys": {"1": 2},
        "day": "2020-01-02",
        "time": "12:00:01",
        "decimal": "1.50",
        "bytes": "78",
        "number": 2,
    }
    status, out, err = ask("catalog", "sql", query, "--catalog", shared / "catalog")
    assert (status, err) == (0, "")
    assert "nan" in out


def test_questions_are_answered_as_of_a_time(shared: Path, ask: Ask) -> None:
    listed = lego_ray.catalog.list_merges(shared / "catalog").sort_by("version")
    second = listed["created_at"][1].as_py().isoformat()  # recorded an instant later
    where = ("--catalog", shared / "catalog", "--at", second, "--json")
    status, out, _ = ask("catalog", "list", *where)
    assert (status, [row["version"] for row in json.loads(out)["rows"]]) == (0, [1])
    _, out, _ = ask("catalog", "sql", "SELECT count(*) AS n FROM merges", *where)
    assert json.loads(out)["rows"] == [{"n": 1}]
    _, out, _ = ask("catalog", "show", "m", *where)
    assert json.loads(out)["merge"]["version"] == 1
    _, out, _ = ask("catalog", "lineage", "m", *where)
    assert len(json.loads(out)["rows"]) == 2


def test_lineage_goes_down_to_a_source_rank_and_up_to_the_merges(shared: Path, ask: Ask) -> None:
    where = ("--catalog", shared / "catalog")
    words = ("m", "--site", "layers.1.q_proj", "--rank", 0)
    status, out, _ = ask("catalog", "lineage", *words, *where, "--json")
    assert status == 0
    rows = json.loads(out)["rows"]
    assert rows
    assert {(row["site"], row["cluster"]) for row in rows} == {("layers.1.q_proj", 0)}
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert {row["uri"] for row in rows} <= {str(shared / "zoo" / name) for name in ("a0", "a1")}
    status, out, _ = ask("catalog", "lineage", "--adapter", shared / "zoo" / "a0", *where, "--json")
    held = json.loads(out)["rows"]
    assert [(row["depth"], row["name"], row["version"]) for row in held] == [
        (1, "m", 1),
        (1, "m", 2),
    ]
    for more in (words, ("--adapter", "a0")):
        status, out, _ = ask("catalog", "lineage", *more, *where)
        assert (status, "rank_index" in out or "through" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lineage",), "give MERGE or --adapter"),
        (("lineage", "m", "--adapter", "a0"), "give MERGE or --adapter"),
        (("lineage", "--adapter", "a0", "--rank", "1"), "go with MERGE"),
        (("lineage", "m", "--site", "nowhere"), "no site nowhere"),
        (("lineage", "--adapter", "nobody"), "knows no adapter"),
        (("show", "m", "--version", "9"), "version 9 does not exist"),
        (("list", "--at", "lately"), "is not a valid time"),
        (("list", "--at", "9999-01-01"), "in the future"),
        (("diff", "--since", "lately"), "--since: 'lately' is not a valid time"),
        (("log", "--since", "9999-01-01"), "--since: 9999-01-01T00:00:00+00:00 is in the future"),
        (("diff",), "--since"),
        (("vacuum", "--retention", "1h"), "--retention"),
        (("vacuum", "--retention", "long"), "is not a duration"),
        (("gc", "--root", "."), "--older-than"),
        (("gc",), "--root"),
    ],
)
def test_bad_questions_are_one_error_and_exit_two(
    shared: Path, ask: Ask, words: tuple[str, ...], says: str
) -> None:
    if words[:2] == ("gc", "--root"):
        words = (*words, "--older-than", "1h")
    status, out, err = ask("catalog", *words, "--catalog", shared / "catalog")
    assert (status, out) == (2, "")
    assert says in err


def test_compact_and_vacuum_say_what_they_did(own: Path, ask: Ask) -> None:
    merged(own, "another", seed=2)
    where = ("--catalog", own / "catalog")
    status, out, _ = ask("catalog", "compact", *where, "--json")
    assert status == 0
    tables = {each["table"]: each for each in json.loads(out)["tables"]}
    assert (tables["msus"]["files_before"], tables["msus"]["files_after"]) == (2, 1)
    shortest = ("--retention", "0h", "--force")
    for words, says in ((("--dry-run",), "would be removed"), ((), " removed")):
        status, out, _ = ask("catalog", "vacuum", *shortest, *words, *where)
        assert status == 0
        assert out.splitlines()[-1].endswith(says)
        assert not out.splitlines()[-1].startswith("0 files")
    status, out, _ = ask("catalog", "vacuum", *shortest, *where, "--json")
    assert {each["files"] for each in json.loads(out)["tables"]} == {0}
    status, _, _ = ask("catalog", "check", "--deep", *where)
    assert status == 0


def test_gc_lists_first_and_deletes_when_told(own: Path, ask: Ask) -> None:
    words = ("catalog", "gc", "--root", own / "out", "--catalog", own / "catalog")
    status, out, _ = ask(*words)
    assert status == 0
    assert f"kept      {own / 'out' / 'forgotten'}" in out, "it is young"
    now = ("--older-than", "0h", "--force")
    status, out, _ = ask(*words, *now)
    assert str(own / "out" / "forgotten") in out
    assert "nothing was deleted, give --delete" in out
    assert (own / "out" / "forgotten").exists()
    status, out, _ = ask(*words, *now, "--delete", "--json")
    assert [each["name"] for each in json.loads(out)["outputs"]] == ["forgotten"]
    assert sorted(path.name for path in (own / "out").iterdir()) == ["recorded"]


def test_check_ends_with_one_and_a_line_for_each_problem(own: Path, ask: Ask) -> None:
    words = ("catalog", "check", "--catalog", own / "catalog")
    assert ask(*words)[:2] == (
        0,
        "ok: 1 merge; --deep reads their files whole\n",
    )
    weights = own / "out" / "recorded" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert ask(*words)[0] == 0
    status, out, err = ask(*words, "--deep")
    assert status == 1
    [line] = out.splitlines()
    assert line.startswith(f"problem   recorded version 1: {weights}: its sha256 is")
    assert err.startswith("VerificationFailed: ")
    status, out, _ = ask(*words, "--deep", "--json")
    assert status == 1
    record = json.loads(out)
    assert (record["ok"], len(record["problems"])) == (False, 1)


def test_an_old_catalog_is_refused_before_any_work_and_migrated(tmp_path: Path, ask: Ask) -> None:
    zoo, catalog = write_zoo(tmp_path / "zoo", 2), tmp_path / "catalog"
    write_table(catalog, "adapters", [adapter()], [("lego_ray.adapters", 1)])
    write_table(catalog, "merges", [merge()], [("m" * 64, 1)])
    flags = ("--rank", 4, "--output", tmp_path / "out", "--runner", "inline", "--catalog", catalog)
    for words in (("merge", zoo, *flags), ("scan", zoo, "--catalog", catalog)):
        status, out, err = ask(*words)
        assert (status, out) == (2, "")
        assert err.startswith("CatalogVersionMismatch: ")
        assert f"lego-ray catalog migrate --catalog {catalog}" in err
    assert not (tmp_path / "out").exists()
    status, out, _ = ask("catalog", "migrate", "--catalog", catalog)
    assert status == 0
    assert "licenses" in out
    assert ask("merge", zoo, *flags)[0] == 0
    status, out, _ = ask("catalog", "migrate", "--catalog", catalog, "--json")
    told = json.loads(out)
    assert told["schema_version"] == SCHEMA_VERSION
    assert {each["version_before"] for each in told["tables"]} == {SCHEMA_VERSION}
    assert lego_ray.catalog.list_merges(catalog).num_rows == 2


def test_plan_and_merge_warn_of_licenses(tmp_path: Path, ask: Ask) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    for name, license in (("a0", "mit"), ("a1", "cc-by-nd-4.0")):
        (zoo / name / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    for words in (("plan",), ("merge", "--output", tmp_path / "out", "--runner", "inline")):
        status, out, _ = ask(words[0], zoo, "--rank", 4, *words[1:])
        assert status == 0
        assert f"warning   license cc-by-nd-4.0 of {zoo / 'a1'} lets nothing derived" in out


def test_repair_shows_first_and_does_it_when_told(own: Path, ask: Ask) -> None:
    from deltalake import DeltaTable, write_deltalake

    words = ("catalog", "repair", "--catalog", own / "catalog")
    status, out, _ = ask(*words)
    assert (status, out.splitlines()[-1]) == (0, "nothing to repair")
    for table in ("adapters", "msus"):
        handle = DeltaTable(str(own / "catalog" / table))
        write_deltalake(handle, handle.to_pyarrow_table(), mode="append")
    status, out, err = ask("catalog", "check", "--catalog", own / "catalog")
    assert status == 1
    assert "it has 2 rows, all alike\n          repair: keep one of them" in out
    assert f"`lego-ray catalog repair --catalog {own / 'catalog'}` shows how" in err
    status, out, _ = ask(*words)
    assert status == 0
    assert out.splitlines()[-1] == "nothing was changed, give --apply for that"
    status, out, _ = ask(*words, "--json")
    seen = json.loads(out)
    assert (seen["applied"], seen["ok"], seen["left"]) == (False, False, [])
    assert {each["table"] for each in seen["tables"]} == {"adapters", "msus"}
    status, out, _ = ask(*words, "--apply", "--json")
    assert json.loads(out) == {**seen, "applied": True, "ok": True}
    assert ask("catalog", "check", "--deep", "--catalog", own / "catalog")[0] == 0


def test_repair_ends_with_one_if_something_is_left(own: Path, ask: Ask) -> None:
    from deltalake import DeltaTable

    handle = DeltaTable(str(own / "catalog" / "msus"))
    handle.delete("rank_index = 0")
    handle.vacuum(0, dry_run=False, enforce_retention_duration=False)
    words = ("catalog", "repair", "--apply", "--catalog", own / "catalog")
    status, out, err = ask(*words)
    assert status == 1
    assert out.startswith("left      msus: merge_id ")
    assert err.startswith("VerificationFailed: ")
    status, out, _ = ask(*words, "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_before_the_first_row_the_answer_is_empty(shared: Path, ask: Ask) -> None:
    where = ("--catalog", shared / "catalog", "--at", "2001-01-01")
    for words in (("list",), ("log",), ("diff", "--since", "2000-01-01")):
        status, out, err = ask("catalog", *words, *where, "--json")
        assert (status, json.loads(out)["rows"], err) == (0, [], "")
    status, out, _ = ask("catalog", "list", *where)
    assert (status, out.splitlines()[-1]) == (0, "(none)")
    _, out, _ = ask("catalog", "sql", "SELECT count(*) AS n FROM merges", *where, "--json")
    assert json.loads(out)["rows"] == [{"n": 0}]


def test_log_and_diff_say_what_was_done(shared: Path, ask: Ask) -> None:
    where = ("--catalog", shared / "catalog")
    status, out, _ = ask("catalog", "log", "--since", "1h", *where)
    assert status == 0
    assert sorted(line.split()[2] for line in out.splitlines()[1:]) == ["merge", "merge", "scan"]
    status, out, _ = ask("catalog", "diff", "--since", "yesterday", *where)
    assert (status, out.splitlines()[-1]) == (0, "4 added, 0 changed, 0 gone")
    assert "seed 0 -> 1" in out
    [merge_id] = {
        row["merge_id"]
        for row in json.loads(ask("catalog", "show", "m", *where, "--json")[1])["sites"]
    }
    assert merge_id[:12] in out
    assert merge_id[:13] not in out
