"""A published merge that lost a file, or has a damaged one: seen by all, and written again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.audit.check import check_catalog
from lego_ray.cli.main import cli
from lego_ray.errors import OutputExists, VerificationFailed
from tests.zoo import WEIGHTS, files_of, write_adapter, write_zoo

CARD = "README.md"
MANIFEST = "lego_ray_manifest.json"
RECIPE = """
sources: [{zoo}]
catalog: {catalog}
output: {output}
defaults: {{rank: 4, method: linear}}
merges:
  - name: everything
  - name: few
    adapters: [a0, a1]
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3)


@pytest.fixture
def merged(zoo: Path, tmp_path: Path) -> Path:
    merge(zoo, tmp_path / "m")
    return tmp_path / "m"


def merge(zoo: Path, output: Path, **options: Any) -> lego_ray.MergeRecord:
    how = {"n_init": 1} if options.get("updatable") else {"method": "linear"}
    return lego_ray.merge(zoo, output=output, rank=4, runner="inline", **how, **options)


def bytes_of(root: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in files_of(root).items()}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("lost", [[WEIGHTS], [CARD], [WEIGHTS, CARD]], ids=str)
def test_a_missing_file_is_reported_and_the_same_merge_writes_it_again(
    lost: list[str], zoo: Path, merged: Path
) -> None:
    whole = bytes_of(merged)
    for name in lost:
        (merged / name).unlink()
    found = lego_ray.status(merged)
    assert found.state == "damaged"
    assert [dict(each) for each in found.damaged] == [
        {"file": name, "problem": "it is missing"} for name in sorted(lost)
    ]
    with pytest.raises(VerificationFailed, match="not there") as caught:
        lego_ray.verify(merged)
    assert "Run the same merge again" in caught.value.hint
    record = merge(zoo, merged)
    assert record.status == "published"
    assert [w for w in record.warnings if "written again" in w] == [
        f"{name} was missing at the output and was written again" for name in sorted(lost)
    ]
    assert bytes_of(merged) == whole
    assert merge(zoo, merged).status == "already published"
    assert lego_ray.status(merged).state == "published"


def test_a_file_cut_short_is_named_and_left_until_it_is_deleted(zoo: Path, merged: Path) -> None:
    whole = bytes_of(merged)
    cut(merged / WEIGHTS)
    with pytest.raises(
        OutputExists, match=f"{WEIGHTS}: it has .* bytes, the manifest says"
    ) as caught:
        merge(zoo, merged)
    assert "Delete it and run the same merge again" in caught.value.hint
    assert lego_ray.status(merged).state == "damaged"
    told = CliRunner().invoke(cli, ["status", str(merged)])
    assert told.exit_code == 0
    assert f"damaged  {WEIGHTS}: it has" in told.stdout
    (merged / WEIGHTS).unlink()
    merge(zoo, merged)
    assert bytes_of(merged) == whole


def test_other_bytes_of_the_same_size_are_seen_by_verify_whose_advice_works(
    zoo: Path, merged: Path
) -> None:
    whole = bytes_of(merged)
    (merged / WEIGHTS).write_bytes(whole[WEIGHTS][:-4] + b"\xff" * 4)
    with pytest.raises(VerificationFailed, match="its sha256 is") as caught:
        lego_ray.verify(merged)
    assert "Delete it and run the same merge again" in caught.value.hint
    (merged / WEIGHTS).unlink()
    merge(zoo, merged)
    assert bytes_of(merged) == whole
    assert lego_ray.verify(merged).ok


def test_what_another_release_published_is_completed_too(zoo: Path, merged: Path) -> None:
    manifest = json.loads((merged / MANIFEST).read_text())
    manifest["versions"]["lego-ray"] = "0.0.1"
    (merged / MANIFEST).write_text(json.dumps(manifest))
    before = bytes_of(merged)
    (merged / WEIGHTS).unlink()
    assert merge(zoo, merged).status == "published"
    assert bytes_of(merged) == before


def test_an_update_writes_what_its_output_lost(zoo: Path, tmp_path: Path) -> None:
    merge(zoo, tmp_path / "u", updatable=True)
    write_adapter(zoo / "new", seed=77)

    def update() -> lego_ray.UpdateRecord:
        return lego_ray.update(
            tmp_path / "u", add=zoo / "new", output=tmp_path / "u2", runner="inline"
        )

    update()
    whole = bytes_of(tmp_path / "u2")
    (tmp_path / "u2" / WEIGHTS).unlink()
    assert update().status == "published"
    assert bytes_of(tmp_path / "u2") == whole


def library(tmp_path: Path) -> Path:
    places = {name: tmp_path / name for name in ("zoo", "catalog", "output")}
    (tmp_path / "library.yaml").write_text(RECIPE.format(**places))
    return tmp_path / "library.yaml"


@pytest.mark.parametrize("first", ["build", "refresh"])
def test_a_library_writes_what_an_output_lost_in_its_place(
    first: str, zoo: Path, tmp_path: Path
) -> None:
    recipe = library(tmp_path)

    def call(name: str) -> Mapping[str, Any]:
        if name == "build":
            return lego_ray.build(recipe, runner="inline")
        return lego_ray.refresh(recipe, runner="inline")

    made = call(first)
    lego_ray.refresh(recipe, runner="inline")
    output = Path(made["merges"][0]["output"])
    whole = bytes_of(tmp_path / "output")
    (output / WEIGHTS).unlink()
    assert lego_ray.library_status(tmp_path / "output").state == "damaged"
    for name in ("refresh", first):
        call(name)
        after = bytes_of(tmp_path / "output")
        assert {k: v for k, v in after.items() if not k.startswith(".lego-ray")} == {
            k: v for k, v in whole.items() if not k.startswith(".lego-ray")
        }
    assert check_catalog(tmp_path / "catalog").ok


def test_a_damaged_merge_of_a_library_fails_alone(zoo: Path, tmp_path: Path) -> None:
    recipe = library(tmp_path)
    made = lego_ray.refresh(recipe, runner="inline")
    damaged = next(Path(m["output"]) for m in made["merges"] if m["name"] == "few")
    cut(damaged / WEIGHTS)
    write_adapter(zoo / "new", seed=99)  # only `everything` takes it
    record = lego_ray.refresh(recipe, runner="inline")
    assert [(m["name"], m["status"]) for m in record["merges"]] == [("everything", "published")]
    [failed] = record["failed"]
    assert (failed["merge"], failed["type"]) == ("few", "OutputExists")
    with pytest.raises(OutputExists, match="bytes, the manifest says"):
        lego_ray.refresh(recipe, runner="inline", strict=True)
    (damaged / WEIGHTS).unlink()
    assert not lego_ray.refresh(recipe, runner="inline")["failed"]
    assert lego_ray.verify(damaged).ok


def test_an_edited_card_is_no_damage(zoo: Path, merged: Path, tmp_path: Path) -> None:
    text = (merged / CARD).read_text() + "\nMy notes.\n"
    (merged / CARD).write_text(text)
    found = lego_ray.verify(merged)
    assert found.ok
    assert CARD not in found.files
    assert WEIGHTS in found.files
    assert found.warnings == ("README.md was edited after the merge was published",)
    assert merge(zoo, merged, catalog=tmp_path / "catalog").status == "already published"
    assert (merged / CARD).read_text() == text
    for deep in (False, True):
        assert check_catalog(tmp_path / "catalog", deep=deep).ok
    record = lego_ray.publish(merged, to=tmp_path / "copy")
    assert "README.md was edited after the merge was published" in record.warnings
    assert (tmp_path / "copy" / CARD).read_text() == text
    assert lego_ray.verify(tmp_path / "copy").ok


def test_a_card_edited_at_the_copy_is_left_there(merged: Path, tmp_path: Path) -> None:
    lego_ray.publish(merged, to=tmp_path / "copy")
    (tmp_path / "copy" / CARD).write_text("Theirs.")
    record = lego_ray.publish(merged, to=tmp_path / "copy")
    assert record.status == "already published"
    assert any("was left as it is" in warning for warning in record.warnings)
    assert (tmp_path / "copy" / CARD).read_text() == "Theirs."
