"""Compare: figures that equal the dense computation, and merges that differ in every way."""

from __future__ import annotations

import json
import shlex
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, OutputExists, VerificationFailed
from lego_ray.methods.presets import PRESETS
from lego_ray.verification.comparison_record import MergeComparison
from tests.zoo import LINEAR, WEIGHTS, Site, mixed_zoo, update_of, write_adapter, write_zoo

# Everything is float64 throughout.
TIGHT = 1e-10
# The catalog's errors are of the update before it is stored in float32.
STORED = 1e-5
MERGES: dict[str, dict[str, Any]] = {
    "lego": {"rank": 5, "n_init": 2},
    "svd": {"rank": 3, "method": "svd"},
    "bf16": {"rank": 4, "method": "svd", "dtype": "BF16", "weights": {"plain": 2.0}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("side")
    mixed_zoo(root / "zoo")
    for name, options in MERGES.items():
        merge(root / "zoo", root / name, catalog=root / "catalog", **options)
    return root


def merge(zoo: Path, output: Path, **options: Any) -> Path:
    lego_ray.merge(zoo, output=output, runner="inline", **options)
    return output


def scorer(folder: Path, body: str) -> str:
    """A scoring command whose script has a body; `adapter` is the directory it is given."""
    script = folder / "score.py"
    script.write_text(f"import json, os, sys\nadapter = sys.argv[1]\n{body}\n")
    return shlex.join([sys.executable, str(script), "{adapter}"])


def compared(place: Path, **options: Any) -> MergeComparison:
    return lego_ray.compare([place / name for name in MERGES], **options)


def test_norms_and_cosines_equal_the_dense_computation(place: Path) -> None:
    found = compared(place)
    updates = [update_of(place / name) for name in MERGES]
    flat = [np.concatenate([u[site].ravel() for site in sorted(u)]) for u in updates]
    for row, update, whole in zip(found.merges, updates, flat, strict=True):
        assert row.norm == pytest.approx(np.linalg.norm(whole), rel=TIGHT)
        by_site = {each.site: each.norm for each in row.by_site}
        assert by_site == {
            site: pytest.approx(np.linalg.norm(each), rel=TIGHT) for site, each in update.items()
        }
    for pair, (one, two) in zip(found.pairs, combinations(range(3), 2), strict=True):
        norms = np.linalg.norm(flat[one]) * np.linalg.norm(flat[two])
        assert pair.cosine == pytest.approx(flat[one] @ flat[two] / norms, rel=TIGHT)
        assert (pair.first, pair.second) == (list(MERGES)[one], list(MERGES)[two])
        assert pair.sites == len(updates[one]) == len(pair.site_cosines)
        for site, cosine in pair.site_cosines.items():
            a, b = updates[one][site].ravel(), updates[two][site].ravel()
            wanted = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            assert cosine == pytest.approx(wanted, rel=TIGHT, abs=TIGHT)


def test_with_sources_figures_are_those_of_verify(place: Path) -> None:
    found = compared(place, sources=place / "zoo")
    for row, name in zip(found.merges, MERGES, strict=True):
        errors = lego_ray.verify(place / name, sources=place / "zoo").errors
        assert errors is not None
        assert row.figures_from == "sources"
        assert row.kept == errors.sources
        for key in ("relative_error_to_sum", "relative_error_to_mean", "norm_ratio"):
            assert row[key] == errors[key]
        assert {s.site: (s.relative_error_to_sum, s.norm_ratio) for s in row.by_site} == {
            s.site: (s.relative_error_to_sum, s.norm_ratio) for s in errors.sites
        }


def test_with_a_catalog_the_errors_are_those_of_its_rows(place: Path) -> None:
    with_sources = compared(place, sources=place / "zoo")
    found = compared(place, catalog=place / "catalog")
    for row, exact in zip(found.merges, with_sources.merges, strict=True):
        assert row.figures_from == "catalog"
        rel = 3e-2 if row.label == "bf16" else STORED
        assert row.relative_error_to_sum == pytest.approx(exact.relative_error_to_sum, rel=rel)
        assert row.norm_ratio == pytest.approx(exact.norm_ratio, rel=rel)
        assert row.relative_error_to_mean is None
        assert row.kept is None
    assert compared(place).merges[0].figures_from is None


def test_settings_that_differ_are_listed_and_no_others(place: Path) -> None:
    found = compared(place).differences
    assert found["method"] == ["lego", "svd", "svd"]
    assert found["preset"] == ["paper", None, None]
    assert found["rank"] == [5, 3, 4]
    assert found["dtype"] == ["F32", "F32", "BF16"]
    assert found["weights"] == [{}, {}, {"plain": 2.0}]
    assert found.keys() == {"method", "preset", "rank", "dtype", "weights"}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_preset_of_a_merge_is_named(preset: str, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    merge(zoo, tmp_path / "one", rank=2, preset=preset)
    merge(zoo, tmp_path / "two", rank=2, method="svd", output_scale=3)
    found = lego_ray.compare([tmp_path / "one", tmp_path / "two"])
    assert [row.preset for row in found.merges] == [preset, None]


def test_modules_of_one_merge_alone_are_named(place: Path, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    one = merge(zoo, tmp_path / "one", rank=2)
    more = tmp_path / "more"
    extra = Site("layers.2.q_proj", (12,), 10)
    for seed in (7, 8):
        write_adapter(more / f"b{seed}", seed=seed, sites=(*LINEAR[1:], extra))
    two = merge(more, tmp_path / "two", rank=2)
    found = lego_ray.compare([one, two])
    [pair] = found.pairs
    assert (pair.sites, pair.adapters) == (3, 0)
    assert pair.only_first == (LINEAR[0].name,)
    assert pair.only_second == (extra.name,)
    a, b = update_of(one), update_of(two)
    both = sorted(a.keys() & b.keys())
    x, y = (np.concatenate([u[s].ravel() for s in both]) for u in (a, b))
    assert pair.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=TIGHT)
    assert found.differences["adapters"] == [2, 2]


def test_modules_of_two_shapes_are_left_out_and_named(tmp_path: Path) -> None:
    one = merge(write_zoo(tmp_path / "zoo", 2), tmp_path / "one", rank=2)
    wide = tmp_path / "wide"
    for seed in (7, 8):
        write_adapter(
            wide / f"b{seed}", seed=seed, sites=(Site(LINEAR[0].name, (30,), 10), *LINEAR[1:])
        )
    two = merge(wide, tmp_path / "two", rank=2)
    found = lego_ray.compare([one, two])
    assert found.pairs[0].sites == 3
    assert found.pairs[0].only_first == found.pairs[0].only_second == ()
    [warning] = found.warnings
    assert warning.startswith(f"{LINEAR[0].name}: not compared")


def test_merges_of_one_name_are_called_by_their_places(place: Path, tmp_path: Path) -> None:
    other = merge(place / "zoo", tmp_path / "lego", rank=2)
    found = lego_ray.compare([place / "lego", other])
    assert [row.label for row in found.merges] == [str(place / "lego"), str(other)]


def test_a_merge_that_was_changed_is_refused(place: Path, tmp_path: Path) -> None:
    other = merge(place / "zoo", tmp_path / "other", rank=2, preset="paper")
    data = bytearray((other / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (other / WEIGHTS).write_bytes(data)
    with pytest.raises(VerificationFailed, match="sha256"):
        lego_ray.compare([place / "lego", other])


def test_sources_that_are_not_there_are_an_error(place: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="not found under --sources"):
        compared(place, sources=write_zoo(tmp_path / "other", 2))


def test_a_budget_that_does_not_hold_a_module_is_an_error(place: Path) -> None:
    with pytest.raises(InvalidOption, match="does not hold 3 merges"):
        compared(place, memory_budget="1MiB")


def test_a_catalog_without_a_merge_is_said(place: Path, tmp_path: Path) -> None:
    other = merge(place / "zoo", tmp_path / "other", rank=2, preset="paper")
    found = lego_ray.compare([place / "lego", other], catalog=place / "catalog")
    assert [row.figures_from for row in found.merges] == ["catalog", None]
    assert "does not hold other" in found.warnings[0]


def test_progress_reaches_its_total(place: Path) -> None:
    seen: list[tuple[int, int]] = []
    compared(place, sources=place / "zoo", progress=lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_the_page_has_all_and_is_the_same_again(place: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    score = scorer(tmp_path, 'print(json.dumps({"score": 1}))')
    found = compared(place, sources=place / "zoo", html=page, score=score)
    assert found.page == str(page)
    text = page.read_text()
    for words in (*MERGES, *(s.name for s in LINEAR), "rslora", "What differs in the recipes"):
        assert words in text
    assert 'class="missing"' not in text
    assert "<script" not in text
    compared(place, sources=place / "zoo", html=page, score=score)
    assert page.read_text() == text
    compared(place, html=page)
    assert page.read_text().count('class="missing"') == 3


def test_names_on_the_page_mean_nothing_as_markup(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    one = merge(zoo, tmp_path / "one", rank=2, name="<script>alert(1)<")
    two = merge(zoo, tmp_path / "two", rank=3)
    lego_ray.compare([one, two], html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text


def test_another_file_is_not_replaced_by_a_page(place: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    with pytest.raises(OutputExists, match="not a page of this command"):
        compared(place, html=mine)
    assert mine.read_text() == "mine"
    with pytest.raises(InvalidOption, match="--html"):
        compared(place, html="s3://bucket/page.html")


def test_an_older_manifest_is_compared_too(place: Path, tmp_path: Path) -> None:
    """Releases before wrote fewer fields, all of which have defaults."""
    other = merge(place / "zoo", tmp_path / "other", rank=2, preset="paper")
    manifest = json.loads((other / "lego_ray_manifest.json").read_text())
    for key in ("site_scales", "output_scale", "weights", "compact"):
        del manifest["recipe"][key]
    (other / "lego_ray_manifest.json").write_text(json.dumps(manifest))
    found = lego_ray.compare([place / "lego", other])
    assert set(found.differences) == {"rank", "n_init"}


def test_scores_stand_side_by_side_and_a_failed_one_is_said(place: Path, tmp_path: Path) -> None:
    body = (
        'if adapter.endswith("svd"): sys.exit("no such data")\n'
        'size = os.path.getsize(adapter + "/adapter_model.safetensors")\n'
        'print(json.dumps({"score": size, "tasks": {"a": 1, adapter[-4:]: 2}}))'
    )
    page = tmp_path / "page.html"
    found = compared(place, score=scorer(tmp_path, body), html=page)
    sizes = [float((place / name / WEIGHTS).stat().st_size) for name in MERGES]
    assert [row.score for row in found.merges] == [sizes[0], None, sizes[2]]
    assert found.merges[0].task_scores == {"a": 1.0, "lego": 2.0}
    assert found.merges[1].task_scores is None
    [warning] = found.warnings
    assert warning.startswith("svd has no score: it ended with exit status 1: no such data")
    assert "Scores; larger is better" in page.read_text()
    told = CliRunner().invoke(
        cli, ["compare", *(str(place / n) for n in MERGES), "--score", scorer(tmp_path, body)]
    )
    assert told.exit_code == 0, told.output
    assert "\nscores\n" in told.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "python score.py"}, "where the adapter goes"),
        ({"score": ""}, "empty"),
        ({"score": "a {adapter}", "score_timeout": 0}, "above 0"),
    ],
)
def test_a_command_that_cannot_be_run_is_an_error(
    place: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        compared(place, **options)


def test_a_scorer_that_takes_too_long_is_ended(place: Path, tmp_path: Path) -> None:
    slow = scorer(tmp_path, "import time; time.sleep(60)")
    found = compared(place, score=slow, score_timeout=0.2)
    assert [row.score for row in found.merges] == [None] * 3
    assert all("took longer than 0.2 seconds" in warning for warning in found.warnings)


@pytest.mark.s3
def test_merges_on_s3_are_compared_and_scored(place: Path, tmp_path: Path, s3_bucket: str) -> None:
    names = list(MERGES)[:2]
    for name in names:
        lego_ray.publish(place / name, to=f"s3://{s3_bucket}/{name}")
    body = 'print(json.dumps({"score": len(os.listdir(adapter)), "tasks": {adapter: 0}}))'
    score = scorer(tmp_path, body)
    far = lego_ray.compare([f"s3://{s3_bucket}/{name}" for name in names], score=score)
    near = lego_ray.compare([place / name for name in names])
    assert [row.norm for row in far.merges] == [row.norm for row in near.merges]
    assert far.pairs == near.pairs
    for row in far.merges:
        assert row.score == 4  # README.md, the config, the weights and the manifest
        assert row.task_scores is not None
        assert not any(Path(folder).exists() for folder in row.task_scores)
