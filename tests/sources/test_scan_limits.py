"""A scan that would list or read more than its limits fails, and takes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, RecipeError, ScanLimitReached
from lego_ray.planning.scan_limits import DEFAULT_LIMITS, checked_limits
from tests.zoo import write_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo", 3)


@pytest.mark.parametrize(("what", "enough"), [("adapters", 3), ("objects", 6)])
def test_each_limit_is_the_last_number_that_passes(zoo: Path, what: str, enough: int) -> None:
    assert len(lego_ray.scan(zoo, scan_limits={what: enough}).adapters) == 3
    with pytest.raises(ScanLimitReached, match=f"more than {enough - 1} files") as caught:
        lego_ray.scan(zoo, scan_limits={what: enough - 1})
    assert caught.value.where == str(zoo)
    assert f"--scan-limit {what}={10 * (enough - 1)}" in caught.value.hint
    assert caught.value.exit_code == 2


def test_bytes_are_those_that_the_scan_says_it_read(zoo: Path) -> None:
    read = lego_ray.scan(zoo).bytes_read
    assert lego_ray.scan(zoo, scan_limits={"bytes": read}).bytes_read == read
    with pytest.raises(ScanLimitReached, match=f"more than {read - 1:,} bytes of headers"):
        lego_ray.scan(zoo, scan_limits={"bytes": read - 1})


def test_limits_hold_over_all_sources_together(zoo: Path) -> None:
    sources = sorted(zoo.iterdir())
    assert len(lego_ray.scan(sources, scan_limits={"objects": 6}).adapters) == 3
    with pytest.raises(ScanLimitReached):
        lego_ray.scan(sources, scan_limits={"objects": 5})


def test_what_is_left_out_by_name_is_not_counted_as_an_adapter(zoo: Path) -> None:
    assert len(lego_ray.scan(zoo, exclude=["a0"], scan_limits={"adapters": 2}).adapters) == 2


@pytest.mark.parametrize("verb", ["scan", "plan", "merge", "build", "refresh", "update"])
def test_every_command_that_scans_has_the_limit(zoo: Path, tmp_path: Path, verb: str) -> None:
    recipe = {"sources": [str(zoo)], "merges": [{"name": "m", "rank": 2}]}
    (tmp_path / "library.yaml").write_text(yaml.safe_dump(recipe))
    places = ["--output", str(tmp_path / "out")]
    here = ["--runner", "inline"]
    library = ["--catalog", str(tmp_path / "catalog"), str(tmp_path / "library.yaml")]
    words = {
        "scan": [str(zoo)],
        "plan": [str(zoo), "--rank", "2"],
        "merge": [str(zoo), "--rank", "2", *places, *here],
        "build": [*library, *places, *here],
        "refresh": [*library, *places, *here],
        "update": [str(tmp_path / "merged"), "--add", str(zoo), *here],
    }[verb]
    if verb == "update":
        first = sorted(zoo.iterdir())[0]
        options = {"rank": 2, "updatable": True, "runner": "inline"}
        lego_ray.merge(first, output=tmp_path / "merged", **options)  # type: ignore[arg-type]
    done = CliRunner().invoke(cli, [verb, *words, "--scan-limit", "adapters=1"])
    assert isinstance(done.exception, ScanLimitReached), done.output
    assert not (tmp_path / "out").exists()


def test_a_recipe_file_has_it_too(zoo: Path, tmp_path: Path) -> None:
    recipe = {
        "sources": [str(zoo)],
        "output": str(tmp_path / "out"),
        "scan_limits": {"adapters": 2},
        "merges": [{"name": "m", "rank": 2}],
    }
    place = tmp_path / "library.yaml"
    place.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ScanLimitReached):
        lego_ray.build(place, runner="inline")
    more = {"adapters": 3}
    assert len(lego_ray.build(place, runner="inline", scan_limits=more, dry_run=True).merges) == 1
    place.write_text(yaml.safe_dump({**recipe, "scan_limits": {"adaptors": 2}}))
    with pytest.raises(RecipeError, match=r"scan_limits: 'adaptors' .* Did you mean adapters\?"):
        lego_ray.build(place, runner="inline")


def test_limits_that_are_none(zoo: Path) -> None:
    assert checked_limits(None) == DEFAULT_LIMITS
    for limits in ({"object": 5}, {"bytes": 0}, {"adapters": 1.5}):
        with pytest.raises(InvalidOption, match="--scan-limit"):
            lego_ray.scan(zoo, scan_limits=limits)
