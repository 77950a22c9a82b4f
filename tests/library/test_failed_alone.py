"""If a merge of a library cannot be made as asked, the others are made all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import BaseModelMismatch, InvalidOption, NoAdaptersFound
from lego_ray.planning.recipe_words import in_recipe_words
from tests.cli.test_commands import run as command
from tests.merging.test_bad_adapters import spoil
from tests.zoo import files_of, mixed_zoo, weights_of, write_adapter

RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
defaults: {{rank: 4, options: {{n_init: 2}}}}
merges:
  - name: chat
    adapters: [chat*]
  - name: few
    adapters: [plain, rslora]
    rank: 3
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo where the adapters of one entry are of two base models."""
    zoo = mixed_zoo(tmp_path / "zoo")
    write_adapter(zoo / "chat-1", seed=91)
    write_adapter(zoo / "chat-2", seed=92, base_model="tiny/other")
    return zoo


def recipe(tmp_path: Path, text: str = RECIPE) -> Path:
    tmp_path.mkdir(exist_ok=True)
    place = tmp_path / "library.yaml"
    place.write_text(text.format(**{n: tmp_path / n for n in ("zoo", "catalog", "output")}))
    return place


def run(call: str, tmp_path: Path, text: str = RECIPE, **options: Any) -> Any:
    return getattr(lego_ray, call)(recipe(tmp_path, text), runner="inline", **options)


def recorded(tmp_path: Path) -> list[str]:
    rows = lego_ray.catalog.sql(tmp_path / "catalog", "SELECT name FROM merges ORDER BY name")
    names: list[str] = rows["name"].to_pylist()
    return names


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_the_others_are_made_and_it_is_named(zoo: Path, tmp_path: Path, call: str) -> None:
    record = run(call, tmp_path)
    [failed] = record.failed
    assert (failed["merge"], failed["type"]) == ("chat", "BaseModelMismatch")
    assert "merge chat, " in failed["message"]
    assert "tiny/other" in failed["message"]
    assert failed["next"]
    assert [merge.name for merge in record.merges] == ["few"]
    assert recorded(tmp_path) == ["few"]
    alone = tmp_path / "alone"
    lego_ray.merge([zoo / "plain", zoo / "rslora"], rank=3, n_init=2, output=alone)
    assert weights_of(record.merges[0].output) == weights_of(alone)
    # Once it can be made it is; what was made stays.
    (zoo / "chat-2").rename(tmp_path / "elsewhere")
    again = run(call, tmp_path)
    assert again.failed == ()
    assert recorded(tmp_path) == ["chat", "few"]
    assert again.merges[1].status == "already published"


def test_a_recipe_says_whose_adapters_it_takes(zoo: Path, tmp_path: Path) -> None:
    for line, taken in (
        ("only_base: tiny/base", ["chat-1"]),
        ("base_model: mine", ["chat-1", "chat-2"]),
    ):
        text = RECIPE.replace("adapters: [chat*]", f"adapters: [chat*]\n    {line}")
        record = run("build", tmp_path / line[:4], text.replace("{zoo}", str(zoo)))
        assert record.failed == ()
        assert sorted(Path(uri).name for uri in record.merges[0].adapters) == taken


def test_a_refresh_leaves_its_current_version_as_it_is(zoo: Path, tmp_path: Path) -> None:
    (zoo / "chat-2").rename(tmp_path / "elsewhere")
    first = run("refresh", tmp_path)
    (tmp_path / "elsewhere").rename(zoo / "chat-2")
    before = files_of(tmp_path / "output" / "chat")
    for _ in range(2):  # with a version of the other to make, and without
        record = run("refresh", tmp_path)
        assert [each["merge"] for each in record.failed] == ["chat"]
        assert [merge.name for merge in record.merges] == ["few"]
        assert files_of(tmp_path / "output" / "chat") == before
        assert lego_ray.catalog.list_merges(tmp_path / "catalog")
    assert first.failed == ()
    write_adapter(zoo / "rslora-2", seed=93)
    third = run("refresh", tmp_path, RECIPE.replace("rslora]", "rslora*]"))
    assert third.merges[0].version == 2
    assert [each["merge"] for each in third.failed] == ["chat"]


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_strict_or_alone_it_ends_the_call(zoo: Path, tmp_path: Path, call: str) -> None:
    for text, options in (
        (RECIPE, {"strict": True}),
        (RECIPE[: RECIPE.index("  - name: few")], {}),
    ):
        with pytest.raises(BaseModelMismatch, match="merge chat, "):
            run(call, tmp_path, text, **options)
        assert files_of(tmp_path / "output") == {}


def test_names_that_mean_nothing_fail_their_own_merge(zoo: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("[chat*]", "[char*]")
    record = run("build", tmp_path, text)
    [failed] = record.failed
    assert (failed["merge"], failed["type"]) == ("chat", NoAdaptersFound.__name__)
    assert [merge.name for merge in record.merges] == ["few"]


def test_a_dry_run_says_it_too(zoo: Path, tmp_path: Path) -> None:
    record = run("build", tmp_path, dry_run=True)
    assert [each["merge"] for each in record.failed] == ["chat"]
    assert [merge.status for merge in record.merges] == ["planned"]


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_so_it_is_where_only_the_weights_tell(zoo: Path, tmp_path: Path, call: str) -> None:
    (zoo / "chat-2").rename(tmp_path / "elsewhere")
    spoil(zoo / "chat-1", float("nan"))
    record = run(call, tmp_path)
    assert [(each["merge"], each["type"]) for each in record.failed] == [
        ("chat", "NoAdaptersFound")
    ]
    assert [merge.name for merge in record.merges] == ["few"]
    assert recorded(tmp_path) == ["few"]


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_what_its_element_type_cannot_hold_fails_it_alone(tmp_path: Path, call: str) -> None:
    zoo = mixed_zoo(tmp_path / "zoo")
    write_adapter(zoo / "chat-1", seed=91, alpha=1e14)
    text = RECIPE.replace("[chat*]", "[chat*]\n    dtype: F16\n    method: concat")
    record = run(call, tmp_path, text)
    assert [(each["merge"], each["type"]) for each in record.failed] == [
        ("chat", InvalidOption.__name__)
    ]
    assert [merge.name for merge in record.merges] == ["few"]


def test_an_output_that_is_taken_fails_its_own_merge(zoo: Path, tmp_path: Path) -> None:
    (zoo / "chat-2").rename(tmp_path / "elsewhere")
    taken = tmp_path / "output" / "chat"
    lego_ray.merge(zoo / "plain", rank=2, output=taken, runner="inline")
    before = files_of(taken)
    record = run("build", tmp_path)
    assert [(each["merge"], each["type"]) for each in record.failed] == [("chat", "OutputExists")]
    assert files_of(taken) == before
    assert recorded(tmp_path) == ["few"]


def test_groups_that_cannot_be_made_fail_their_own_entry(zoo: Path, tmp_path: Path) -> None:
    record = run("build", tmp_path, RECIPE.replace("[chat*]", "[chat*]\n    groups: auto"))
    assert [each["merge"] for each in record.failed] == ["chat"]
    assert (record.groups, [merge.name for merge in record.merges]) == ((), ["few"])


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_the_command_ends_with_1_and_says_which(zoo: Path, tmp_path: Path, call: str) -> None:
    words = [call, recipe(tmp_path), "--runner", "inline"]
    told = command(*words)
    assert told.returncode == 1
    assert "not made  chat: merge chat, " in told.stdout
    assert "1 of 2 merges could not be made: chat" in told.stderr
    assert "published" in told.stdout
    shown = command(*words, "--json")
    record = json.loads(shown.stdout)
    assert (shown.returncode, record["error"]["type"]) == (1, "MergesFailed")
    assert [each["merge"] for each in record["failed"]] == ["chat"]
    assert [merge["name"] for merge in record["merges"]] == ["few"]


@pytest.mark.parametrize("call", ["build", "refresh"])
def test_advice_names_what_a_recipe_has_and_not_flags_of_merge(
    zoo: Path, tmp_path: Path, call: str
) -> None:
    failed = run(call, tmp_path).failed[0]
    assert "`only_base: 'tiny/" in failed["next"]
    assert "`base_model`" in failed["next"]
    assert "--" not in failed["next"]
    assert "in a recipe file" not in failed["next"]
    for line, named in (
        ("weights: {{nobody: 2}}", "`weights`"),
        ("only_base: no/such", "`only_base`"),
    ):
        text = RECIPE.replace("adapters: [chat*]", f"adapters: [chat*]\n    {line}")
        failed = run(call, tmp_path / "again", text.replace("{zoo}", str(zoo))).failed[0]
        assert named in failed["message"]
        assert "--" not in failed["message"] + failed["next"]
    (zoo / "bad").mkdir()
    (zoo / "bad" / "adapter_config.json").write_text("{}")
    (zoo / "bad" / "adapter_model.safetensors").write_bytes(b"")
    done = CliRunner().invoke(cli, [call, str(recipe(tmp_path)), "--runner", "inline"])
    assert "left out  " in done.output
    assert "--exclude" not in done.output


def test_flags_that_build_and_refresh_have_stay_flags() -> None:
    for text in ("Give it with --base, or raise --memory-budget.", "run without --strict", "a--b"):
        assert in_recipe_words(text) == text
    assert in_recipe_words("--n-init 3, --exclude it") == "`options.n_init` 3, `exclude` it"
