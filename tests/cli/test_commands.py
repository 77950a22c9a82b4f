"""The command line as scripts use it: one JSON object, exit codes, one clear error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli, main
from tests.lone_zoo import tensors_of, write
from tests.merging.test_bad_adapters import spoil
from tests.zoo import Site, write_adapter, write_zoo


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*words: object) -> Done:
    """Runs the program in this process."""
    status: object = 0
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main([*map(str, words)])
        except SystemExit as left:
            status = left.code
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())


def started(*words: object) -> Done:
    """Runs the program as a shell does."""
    command = [sys.executable, "-m", "lego_ray", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_merge_prints_one_json_object_with_its_keys_and_plan_has_its_id(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    flags = ("--rank", 4, "--output", tmp_path / "out", "--runner", "inline", "--json")
    planned = json.loads(run("plan", zoo, *flags).stdout)
    done = started("merge", zoo, *flags, "--catalog", tmp_path / "catalog")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {
        "merge_id",
        "output",
        "catalog",
        "adapters",
        "refused",
        "sites",
        "rank",
        "seconds",
        "bytes_read",
    } <= set(record)
    assert record["merge_id"] == planned["plan"]
    assert len(record["adapters"]) == 3
    query = "SELECT merge_id, rank FROM merges"
    rows = json.loads(
        run("catalog", "sql", query, "--catalog", tmp_path / "catalog", "--json").stdout
    )["rows"]
    assert rows == [{"merge_id": record["merge_id"], "rank": 4}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rank", 0), "--rank"),
        (("--rank", 4, "--runner", "foo"), "foo"),
        (("--rank", 4, "--rnk", 1), "--rank"),
        (("--rank", 4, "--memory-budget", "lots"), "--memory-budget"),
        (("--rank", 4, "--dtype", "F8"), "F8"),
    ],
)
def test_bad_input_is_one_error_exit_two_and_nothing_written(
    tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    # Ray would come up in this process after the message, beside the tests that follow.
    done = run("merge", zoo, "--output", tmp_path / "out", "--runner", "inline", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_no_adapters_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    flags = ("--rank", 4, "--output", tmp_path / "out")
    # Ray comes up meanwhile, and must not keep the message.
    done = started("merge", tmp_path / "empty", *flags, "--workers", 1)
    assert done.returncode == 2
    assert done.stderr.startswith("NoAdaptersFound: ")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zoo, the merge `out` of it, and its catalog."""
    here = tmp_path_factory.mktemp("merged")
    zoo = write_zoo(here / "zoo", 3)
    lego_ray.merge(zoo, rank=4, output=here / "out", catalog=here / "catalog", runner="inline")
    return here


def answer(*words: object) -> dict[str, Any]:
    """The one JSON object a command prints, and nothing beside it on stdout."""
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_scan_lists_what_it_found_and_records_it_once(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    first = answer("scan", zoo, "--catalog", tmp_path / "catalog")
    assert len(first["adapters"]) == 3
    assert first["refused"] == []
    assert first["new"] == 3
    again = run("scan", zoo, "--catalog", tmp_path / "catalog")
    assert again.returncode == 0
    assert "3 usable, 0 refused" in again.stdout
    assert "(0 new rows)" in again.stdout


def test_scan_of_a_zoo_with_bad_adapters_names_them_and_strict_fails(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    broken = zoo / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    record = answer("scan", zoo)
    assert [r["adapter"] for r in record["refused"]] == [str(broken)]
    strict = run("scan", zoo, "--strict")
    assert strict.returncode == 1
    assert strict.stderr.startswith("StrictRefusal: ")


def test_a_quarantined_adapter_is_told_once(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    spoil(zoo / "a1", float("nan"))
    done = run(*("merge", zoo, "--rank", 4, "--output", tmp_path / "m", "--runner", "inline"))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(f"{zoo}/a1") == 2  # its place, and that in its reason


@pytest.mark.parametrize("verb", ["plan", "merge"])
def test_other_names_of_modules_are_told_once(verb: str, tmp_path: Path) -> None:
    module = "transformer_blocks.0.attn.add_k_proj"
    for name, prefix in (("a", ""), ("b", "diffusion_model."), ("c", "transformer.")):
        write(tmp_path / "zoo" / f"{name}.safetensors", tensors_of([f"{prefix}{module}"]))
    words = ["--output", tmp_path / "m"] if verb == "merge" else []
    done = run(verb, tmp_path / "zoo", "--rank", 2, "--layout", "diffusers", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("spelled otherwise") == 1
    assert "(and in 1 other adapter)" in done.stdout


def test_a_warning_with_a_line_break_in_a_name_is_one_line(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 1)
    shutil.copytree(zoo / "a0", zoo / "tw\nin")
    done = run("plan", zoo, "--rank", 4)
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stdout.splitlines() if "same content" in line]
    assert f"{zoo}/tw\\nin" in warning


def test_verify_reports_the_errors_against_the_sources(merged: Path) -> None:
    record = answer("verify", merged / "out", "--sources", merged / "zoo")
    assert record["ok"] is True
    assert record["errors"]["relative_error_to_sum"] > 0
    told = run("verify", merged / "out", "--sources", *sorted((merged / "zoo").iterdir()))
    assert told.returncode == 0
    assert "relative error to the sum" in told.stdout


def test_compare_shows_merges_side_by_side(merged: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    words = ("merge", merged / "zoo", "--rank", 3, "--output", other, "--runner", "inline")
    assert run(*words).returncode == 0
    page = tmp_path / "page.html"
    adapters = sorted((merged / "zoo").iterdir())
    told = run("compare", merged / "out", other, "--sources", *adapters, "--html", page)
    assert told.returncode == 0, told.stderr
    for said in ("what differs in the recipes", "cosine of the merged updates", "that is kept"):
        assert said in told.stdout
    assert f"page   {page}" in told.stdout
    record = answer("compare", merged / "out", other, "--catalog", merged / "catalog")
    assert [each["figures_from"] for each in record["merges"]] == ["catalog", None]
    assert "does not hold other" in record["warnings"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("out",), "two different merges"),
        (("out", "out"), "two different merges"),
        (("out", "zoo"), "lego_ray_manifest.json"),
        (("--sources", "zoo", "out"), "Missing argument"),
        (("out", "zoo", "--sources"), "requires an argument"),
    ],
)
def test_compare_of_what_cannot_be_compared_is_bad_input(
    merged: Path, words: tuple[str, ...], said: str
) -> None:
    done = run("compare", *(w if w.startswith("-") else merged / w for w in words))
    assert done.returncode == 2
    assert said in done.stderr


def test_verify_of_what_is_no_merge_is_bad_input(merged: Path) -> None:
    done = run("verify", merged / "zoo")
    assert done.returncode == 2
    assert "lego_ray_manifest.json" in done.stderr


def test_a_changed_merge_fails_to_verify(merged: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(merged / "out", tmp_path / "out")
    weights = changed / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = run("verify", changed)
    assert done.returncode == 1
    assert done.stderr.startswith("VerificationFailed: ")


def test_the_catalog_lists_shows_and_traces_a_merge(merged: Path) -> None:
    where = ("--catalog", merged / "catalog")
    listed = answer("catalog", "list", *where)["rows"]
    assert [(row["name"], row["version"]) for row in listed] == [("out", 1)]
    shown = answer("catalog", "show", "out", *where)
    assert shown["merge"]["merge_id"] == listed[0]["merge_id"]
    assert len(shown["sites"]) == shown["summary"]["sites"]
    traced = answer("catalog", "lineage", "out", *where)["rows"]
    assert {row["uri"] for row in traced} == {str(p) for p in (merged / "zoo").iterdir()}


@pytest.mark.parametrize(
    ("words", "names"),
    [(("list",), "out"), (("show", "out"), "out"), (("lineage", "out"), "a2")],
)
def test_people_get_a_table(merged: Path, words: tuple[str, ...], names: str) -> None:
    done = run("catalog", *words, "--catalog", merged / "catalog")
    assert done.returncode == 0, done.stderr
    assert names in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "nothing"), "nothing"),
        (("lineage", "nothing"), "nothing"),
        (("sql", "DROP TABLE merges"), "QueryError"),
    ],
)
def test_bad_questions_are_bad_input(merged: Path, words: tuple[str, ...], says: str) -> None:
    done = run("catalog", *words, "--catalog", merged / "catalog")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_adapters_that_do_not_belong_together_are_bad_input(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    config = next(iter(sorted(zoo.iterdir()))) / "adapter_config.json"
    other = json.loads(config.read_text()) | {"base_model_name_or_path": "another/base"}
    config.write_text(json.dumps(other))
    flags = ("--output", tmp_path / "out", "--runner", "inline")
    done = run("merge", zoo, "--rank", 4, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("BaseModelMismatch: ")
    assert "another/base" in done.stderr
    assert not (tmp_path / "out").exists()
    planned = run("plan", zoo, "--rank", 4)
    assert planned.returncode == 2
    table = [line.split() for line in planned.stdout.splitlines()]
    assert table[0] == ["base", "model", "adapter"]
    assert [row[0] for row in table if len(row) == 2] == sorted(
        row[0] for row in table if len(row) == 2
    )
    assert ["another/base", str(config.parent)] in table
    done = run("merge", zoo, "--rank", 4, *flags, "--only-base", "another/base")
    assert done.returncode == 0
    assert "--only-base another/base left out 1 adapter: 1 name" in done.stdout + done.stderr
    given = run("plan", zoo, "--rank", 4, "--base-model", "mine").stdout.splitlines()
    assert given[0].split() == ["base", "model", "adapter", "rank", "sites", "size"]


def test_sites_of_different_shapes_are_bad_input(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "one", sites=[Site("layers.0.q", (8,), 6)])
    write_adapter(tmp_path / "zoo" / "two", sites=[Site("layers.0.q", (9,), 6)])
    flags = ("--output", tmp_path / "out", "--runner", "inline")
    done = run("merge", tmp_path / "zoo", "--rank", 2, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("SiteShapeMismatch: layers.0.q: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ray", "inline"])
def test_a_runner_is_made_without_torch(name: str) -> None:
    """So that Ray comes up while torch is imported, which takes as long."""
    code = (
        "import sys; from lego_ray.runners.open import make_runner;"
        f"make_runner({name!r}); print('torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_build_makes_a_library(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    recipe = tmp_path / "library.yaml"
    recipe.write_text(
        f"sources: [{zoo}]\ndefaults: {{rank: 2}}\n"
        "merges:\n  - {name: all, options: {n_init: 1}}\n  - {name: two, adapters: [a0, a1]}\n"
    )
    asked = ["build", str(recipe), "--output", str(tmp_path / "out"), "--runner", "inline"]
    done = CliRunner().invoke(cli, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [(m["name"], len(m["adapters"])) for m in record["merges"]] == [("all", 3), ("two", 2)]
    assert (tmp_path / "out/two/adapter_config.json").exists()
    again = CliRunner().invoke(cli, asked)
    assert again.exit_code == 0
    assert again.stdout.count("already published") == 2
    assert "2 merges of 3 adapters" in again.stdout
