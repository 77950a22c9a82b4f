"""`lego-ray report`: a real merge as a page, opened in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from importlib import util
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.catalog import show
from lego_ray.cli.main import cli
from lego_ray.errors import (
    InvalidOption,
    MalformedAdapter,
    MissingPackage,
    OutputExists,
    VerificationFailed,
)
from lego_ray.reporting.numbers import percent
from lego_ray.reporting.own_sources import own_sources
from lego_ray.reporting.style import DARK, LIGHT
from lego_ray.storage.uri import parse_uri
from lego_ray.verification import similarity
from tests.browser import Browser
from tests.reporting.page_facts import facts, manifest
from tests.zoo import CONFIG, update_of, write_adapter, write_zoo

EVIL = "<script>document.title='taken'<"


@dataclass(frozen=True)
class Merged:
    """A merge of eight adapters, one refused, one with a name that is markup."""

    root: Path

    def places(self, *names: str) -> dict[str, Any]:
        return {name: self.root / name for name in names}

    @property
    def merged(self) -> Path:
        return self.root / "merged"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    root = tmp_path_factory.mktemp("report")
    write_zoo(root / "sources", 7)
    write_adapter(root / "sources" / EVIL, seed=9, rank=6)
    write_adapter(root / "sources" / "dora", use_dora=True)
    lego_ray.merge(
        root / "sources", rank=4, output=root / "merged", catalog=root / "catalog", runner="inline"
    )
    return Merged(root)


@pytest.fixture(scope="module")
def whole(merged: Merged) -> Path:
    output = merged.root / "page.html"
    lego_ray.report(merged.merged, output=output, **merged.places("catalog", "sources"))
    return output


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Browser]:
    """The browser; the test fails if a page complained or asked for anything."""
    yield browser
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []


SHOWN = "return [...document.querySelectorAll('%s')].filter(e => e.checkVisibility()).length"
WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_a_browser_shows_what_the_merge_was(merged: Merged, whole: Path, quiet: Browser) -> None:
    quiet.open(whole)
    text = quiet.run("return document.body.innerText")
    assert quiet.run("return document.title") == "merged: how this adapter was merged"
    assert "merged from 8 adapters by the method lego" in text
    assert "1 adapter stayed out: UnsupportedAdapter (1)." in text
    assert quiet.run(SHOWN % ".missing") == 0
    assert quiet.run(SHOWN % "figure .plot") == 9
    assert quiet.run(SHOWN % "#map-figure circle:has(title)") == 8
    assert quiet.run(SHOWN % "#heat-figure circle:has(title)") == 8 * 7
    titles = quiet.run(
        "return [...document.querySelectorAll('#map-figure .desk circle title')].map(e => e.textContent)"
    )
    assert any(EVIL in title for title in titles)
    assert quiet.run(SHOWN % "#errors-figure circle:has(title)") == 4
    words = quiet.run("return document.querySelector('#stages-figure').textContent")
    assert "read and merge" in words
    for part in quiet.run(
        "return [...document.querySelectorAll('[aria-labelledby]')].map(e => "
        "document.getElementById(e.getAttribute('aria-labelledby')).innerText)"
    ):
        assert part.strip()
    levels = quiet.run("return [...document.querySelectorAll('h1,h2,h3')].map(e => e.tagName)")
    assert levels == ["H1", "H2", "H3"] + ["H2"] * 9
    kept = quiet.run(
        "return [...document.querySelectorAll('.bars tbody tr')].map(r => [r.cells[0].innerText, "
        "r.querySelector('.n').innerText, r.querySelector('.bar').getBoundingClientRect().width, "
        "r.querySelector('.track').getBoundingClientRect().width])"
    )
    errors = lego_ray.verify(merged.merged, sources=merged.root / "sources").errors
    assert errors is not None
    shares = errors["sources"]
    assert len(kept) == len(shares) == 8
    told = {s["adapter"].rsplit("/sources/")[1]: s["share_kept"] for s in shares}
    for name, said, bar, track in kept:
        assert said == percent(told[name])
        assert bar == pytest.approx(told[name] * track, abs=0.6)


@pytest.mark.parametrize(
    "figure", ["map-figure", "errors-figure", "inertia-figure", "norms-figure"]
)
def test_a_mark_shows_its_name_where_it_is_drawn(whole: Path, quiet: Browser, figure: str) -> None:
    quiet.open(whole)
    drawn, named = (
        quiet.run(
            f"return [...document.querySelectorAll('#{figure} .desk {marks}')].map(e => "
            "e.getBoundingClientRect()).map(r => [r.x + r.width / 2, r.y + r.height / 2])"
        )
        for marks in ("[id*=figure] use[style*=fill]", "circle")
    )
    assert named
    # Three digits of a drawing's unit, and half a pixel for how far a shape's box is off its middle.
    assert np.abs(np.array(named)[:, None] - np.array(drawn)).max(axis=2).min(axis=1).max() < 1


def test_the_tables_open_and_hold_what_the_catalog_has(
    merged: Merged, whole: Path, quiet: Browser
) -> None:
    quiet.open(whole)
    assert quiet.run(SHOWN % "details table") == 0
    for summary in quiet.driver.find_elements("css selector", "summary"):
        summary.click()
    assert quiet.run(SHOWN % "details table") == quiet.run(
        "return document.querySelectorAll('details table').length"
    )
    rows = quiet.run(
        "return [...document.querySelectorAll('#errors-figure + details tbody tr')].map(r => "
        "[...r.cells].map(c => c.innerText))"
    )
    known = show(merged.root / "catalog", "merged").sites.to_pylist()
    assert [row[0] for row in rows] == [site["site"] for site in known]
    for row, site in zip(rows, known, strict=True):
        assert float(row[1]) == pytest.approx(site["relative_error"], rel=0.01)
        assert int(row[2]) == site["n_msus"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_telephone_and_a_desk_by_day_and_by_night(
    whole: Path, quiet: Browser, width: int, dark: bool
) -> None:
    quiet.open(whole, width=width, dark=dark)
    assert quiet.run(WIDE) <= 0
    colors = quiet.run(
        "return [document.documentElement, document.querySelector('#map-figure svg text')].map(e => "
        "[getComputedStyle(e).backgroundColor, getComputedStyle(e).fill])"
    )
    ground, ink = colors[0][0], colors[1][1]
    for name, color in (DARK if dark else LIGHT).items():
        shown = quiet.run(
            f"return [...document.querySelectorAll('#map-figure [style*=\"fill: {LIGHT[name]}\"]')].map("
            "e => getComputedStyle(e).fill)"
        )
        channels = ", ".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
        assert set(shown) <= {f"rgb({channels})"}
        assert shown or name not in ("ink", "c0")
    bright = [sum(map(int, c[4:-1].split(", "))) / 765 for c in (ground, ink)]
    assert bright[0] < 0.2 < 0.8 < bright[1] if dark else bright[1] < 0.2 < 0.8 < bright[0]


# Texts of the visible figures that lie over one another by more than the room between lines.
OVERLAPS = """
const over = [];
for (const plot of [...document.querySelectorAll('.plot')].filter(e => e.checkVisibility())) {
  const found = [...plot.querySelectorAll('svg text')];
  const texts = found.map(e => [e.textContent, e.getBoundingClientRect()]);
  texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 4) over.push([plot.parentElement.id, a, b]);
  }));
}
return over
"""


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a merge of fifty adapters."""
    from lego_ray.reporting.write import page

    file = tmp_path_factory.mktemp("fifty") / "page.html"
    file.write_bytes(page(facts(50)))
    return file


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_fit_and_their_labels_do_not_overlap(
    width: int, fifty: Path, quiet: Browser
) -> None:
    quiet.open(fifty, width=width)
    shown = quiet.run(
        "return [...document.querySelectorAll('.plot')].filter(e => e.checkVisibility())"
        ".map(e => [e.className, e.scrollWidth - e.clientWidth])"
    )
    assert {each[0] for each in shown} == {"plot phone" if width < 640 else "plot desk"}
    assert len(shown) == 9
    assert all(each[1] <= 0 for each in shown)
    assert quiet.run(OVERLAPS) == []


@pytest.mark.parametrize("count", [50, 1000])
def test_it_stays_a_page_with_many_adapters(count: int, tmp_path: Path, quiet: Browser) -> None:
    from lego_ray.reporting.write import page

    file = tmp_path / "page.html"
    file.write_bytes(page(facts(count)))
    assert file.stat().st_size < 2**21
    quiet.open(file)
    assert quiet.run(WIDE) <= 0
    assert quiet.run(SHOWN % "#map-figure circle:has(title)") == count
    assert quiet.run("return document.querySelectorAll('.bars tbody tr').length") == 25
    assert quiet.run("return document.documentElement.scrollHeight") < 10_500
    labels = quiet.run(
        "return [...document.querySelectorAll('#flow-figure .desk text')].map(e => "
        "[e.getBoundingClientRect().top, e.getBoundingClientRect().bottom, e.textContent])"
        ".filter(e => e[2].startsWith('team-')).sort((a, b) => a[0] - b[0])"
    )
    assert min(count, 50) <= len(labels) <= 60
    for (_, bottom, _), (top, _, _) in pairwise(labels):
        assert top >= bottom - 2, "names cover each other"
    quiet.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert quiet.run("return document.querySelectorAll('#flow tbody tr').length") == count
    assert quiet.run(WIDE) <= 0


def test_the_map_has_the_cosines_of_the_updates(merged: Merged, whole: Path) -> None:
    names = sorted(p.name for p in (merged.root / "sources").iterdir() if p.name != "dora")
    updates = [update_of(merged.root / "sources" / name) for name in names]
    flat = np.stack([np.concatenate([u[s].ravel() for s in sorted(u)]) for u in updates])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    rows = whole.read_text().split('id="map-figure"')[1].split("<tbody>")[1].split("</tbody>")[0]
    for row in rows.split("</tr>")[:-1]:
        cells = [
            cell.rsplit(">", 1)[1] for cell in row.replace("</th>", "</td>").split("</td>")[:-1]
        ]
        best = cosines[names.index(unescape(cells[0]))]
        assert unescape(cells[2]) == names[int(best.argmax())]
        assert float(cells[3]) == pytest.approx(best.max(), rel=0.01)


def test_sketched_cosines_are_near_and_said_to_be_estimates(
    merged: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "EXACT", 0)
    lego_ray.report(merged.merged, output=tmp_path / "p.html", **merged.places("sources"))
    assert "estimated from sketches" in (tmp_path / "p.html").read_text()


def test_the_same_merge_has_the_same_page_and_replaces_it(merged: Merged, whole: Path) -> None:
    before = whole.read_bytes()
    lego_ray.report(merged.merged, output=whole, **merged.places("catalog", "sources"))
    assert whole.read_bytes() == before
    assert [p.name for p in whole.parent.iterdir() if p.name.startswith(".lego-ray-page")] == []


def test_the_command_says_what_more_there_is(merged: Merged, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    words = ["report", str(merged.merged), "--output", str(output)]
    found = CliRunner().invoke(cli, [*words, "--no-sources"])
    assert found.exit_code == 0, found.output
    assert str(output) in found.output
    assert found.output.endswith("more with --sources\n")
    assert "more with" not in CliRunner().invoke(cli, words).output
    shutil.copytree(merged.merged, tmp_path / "a" / "b" / "c" / "alone")
    words[1] = str(tmp_path / "a" / "b" / "c" / "alone")
    assert CliRunner().invoke(cli, words).output.endswith("more with --catalog\n")
    none = CliRunner().invoke(cli, [*words, "--no-sources"])
    assert none.output.endswith("more with --catalog and --sources\n")
    both = CliRunner().invoke(cli, [*words, "--no-sources", "--sources", str(merged.root)])
    assert both.exit_code == 2
    words += ["--no-sources", "--json"]
    catalog = ["--catalog", str(merged.root / "catalog")]
    record = json.loads(CliRunner().invoke(cli, [*words, *catalog]).stdout)
    assert record["bytes"] == output.stat().st_size
    assert record["sections"] == {
        **dict.fromkeys(("map", "search"), False),
        **dict.fromkeys(("lineage", "clusters", "flow", "errors", "norms", "stages"), True),
    }


def test_the_manifests_own_sources_are_read_without_being_named(
    merged: Merged, whole: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    record = lego_ray.report(merged.merged, output=page, **merged.places("catalog"))
    assert record["sections"]["map"]
    assert record["warnings"] == []
    assert page.read_bytes() == whole.read_bytes()
    record = lego_ray.report(merged.merged, output=page, sources=(), **merged.places("catalog"))
    assert not record["sections"]["map"]


def test_the_catalog_beside_the_merge_or_its_library_is_read_without_being_named(
    merged: Merged, whole: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    record = lego_ray.report(merged.merged, output=page)
    assert page.read_bytes() == whole.read_bytes()
    assert record["warnings"] == []
    version = tmp_path / "library" / "merged" / "0123456789ab"
    shutil.copytree(merged.merged, version)
    assert not lego_ray.report(version, output=page)["sections"]["lineage"]
    for beside in (version.parent, version.parent.parent, tmp_path):
        shutil.copytree(merged.root / "catalog", beside / "catalog")
        record = lego_ray.report(version, output=page)
        assert record["sections"]["lineage"]
        assert record["sections"]["stages"]
        shutil.rmtree(beside / "catalog")
    other = tmp_path / "other"
    lego_ray.merge(
        merged.root / "sources" / "a1",
        rank=1,
        output=other / "merged",
        catalog=other / "catalog",
        runner="inline",
    )
    shutil.copytree(version, other / "stranger")
    record = lego_ray.report(other / "stranger", output=page)
    assert not record["sections"]["lineage"], "a catalog that does not hold it"
    assert record["warnings"] == []
    [log] = (other / "catalog" / "merges" / "_delta_log").glob("*0.json")
    log.write_text("{")
    [warning] = lego_ray.report(other / "stranger", output=page)["warnings"]
    assert warning.startswith("The catalog beside it was not read: ")
    assert warning.endswith("Say with --catalog where it is.")


def test_own_sources_that_cannot_be_read_are_a_warning(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 3)
    lego_ray.merge(zoo, rank=2, output=tmp_path / "m", runner="inline")
    shutil.move(zoo / "a1", tmp_path / "elsewhere")
    record = lego_ray.report(tmp_path / "m", output=tmp_path / "page.html")
    assert not record["sections"]["map"]
    [warning] = record["warnings"]
    assert warning.startswith("The sources were not read: ")
    assert warning.endswith("Say with --sources where they are.")
    shutil.rmtree(zoo / "a2")
    write_adapter(zoo / "a2", seed=50)
    shutil.move(tmp_path / "elsewhere", zoo / "a1")
    record = lego_ray.report(tmp_path / "m", output=tmp_path / "page.html")
    assert "The sources were not read: " in record["warnings"][0], "another adapter in its place"


@pytest.mark.parametrize(
    ("merge", "sources", "near"),
    [
        ("/library/m", ["/zoo/a", "/zoo/b"], True),
        ("/library/m", ["/zoo/a", "s3://zoo/b"], False),
        ("/library/m", ["hf://acme/a@0123"], False),
        ("/library/m", ["a", "../b"], False),
        ("s3://zoo/m", ["s3://zoo/a"], True),
        ("s3://zoo/m", ["s3://other/a"], False),
        ("s3://zoo/m", ["/etc/passwd"], False),
        ("s3://zoo/m", ["nothing://x"], False),
        ("hf://acme/m", ["hf://acme/a"], False),
    ],
)
def test_only_sources_in_the_store_of_the_merge_are_read_unasked(
    merge: str, sources: list[str], near: bool
) -> None:
    manifest = {"sources": [{"uri": uri} for uri in sources]}
    assert own_sources(parse_uri(merge), manifest) == (sources if near else [])


def test_other_files_and_places_are_left_alone(merged: Merged, tmp_path: Path) -> None:
    other = tmp_path / "notes.html"
    other.write_text("<!doctype html>mine")
    with pytest.raises(OutputExists):
        lego_ray.report(merged.merged, output=other)
    assert other.read_text() == "<!doctype html>mine"
    with pytest.raises(InvalidOption, match="directory"):
        lego_ray.report(merged.merged, output=tmp_path)
    with pytest.raises(InvalidOption, match="local path"):
        lego_ray.report(merged.merged, output="s3://bucket/page.html")


def test_what_does_not_belong_to_the_merge_is_refused(merged: Merged, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    lego_ray.merge(zoo, rank=2, output=tmp_path / "m", catalog=tmp_path / "c", runner="inline")
    page = tmp_path / "page.html"
    with pytest.raises(InvalidOption, match="does not hold the merge"):
        lego_ray.report(merged.merged, output=page, catalog=tmp_path / "c")
    with pytest.raises(VerificationFailed, match="not found under --sources"):
        lego_ray.report(merged.merged, output=page, sources=zoo)
    (tmp_path / "m" / CONFIG).write_text("{}")
    with pytest.raises(VerificationFailed):
        lego_ray.report(tmp_path / "m", output=page, sources=zoo)
    with pytest.raises(InvalidOption, match="--memory-budget"):
        lego_ray.report(merged.merged, output=page, memory_budget=1, **merged.places("sources"))
    assert not page.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": "<b>"}, r"sites: '<b>'; expected a whole number"),
        ({"refused": [["x"]]}, r"refused\[0\]: \['x'\]; expected a mapping"),
        ({"refused": [{"adapter": "x"}]}, r"refused\[0\]\.reason: missing"),
        ({"versions": ["1"]}, r"versions: \['1'\]; expected a mapping"),
        ({"base_model": 3}, "base_model: 3; expected text"),
        ({"recipe": {"method": "lego", "ranks": {"q": "8"}}}, r"recipe\.ranks\.q: '8'; expected"),
        ({"sources": [{"adapter_id": "a", "uri": "/a", "rank_min": "<b>"}]}, r"\[0\]\.rank_min: "),
        ({"sources": [{"adapter_id": "a", "uri": "/a", "weight": None}]}, r"\.weight: None; "),
        ({"manifest_version": 2}, "manifest_version: 2; expected 1"),
        ({"merge_id": None}, "merge_id: None; expected text"),
    ],
)
def test_a_manifest_of_another_making_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    made = manifest(["a"], sites=1, rank=4) | {"manifest_version": 1} | change
    (tmp_path / "lego_ray_manifest.json").write_text(json.dumps(made))
    with pytest.raises(MalformedAdapter, match=f"not a manifest of version 1: .*{said}"):
        lego_ray.report(tmp_path, output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_manifest_alone_makes_a_page(tmp_path: Path) -> None:
    made = manifest(["a", "b"], sites=1, rank=4) | {"manifest_version": 1}
    (tmp_path / "lego_ray_manifest.json").write_text(json.dumps(made))
    record = lego_ray.report(tmp_path, output=tmp_path / "page.html")
    assert not any(record["sections"].values())


def test_without_matplotlib_it_says_which_extra_has_it(
    merged: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == "matplotlib" else real(n))
    with pytest.raises(MissingPackage) as caught:
        lego_ray.report(merged.merged, output=tmp_path / "page.html")
    assert "pip install 'lego-ray[report]'" in str(caught.value)
    assert caught.value.exit_code == 2
