"""`lego-ray catalog site` in a real browser, opened from disk: searched, filtered, walked through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import lego_ray
from lego_ray.catalog.tables import Catalog
from tests.browser import Browser
from tests.catalog.sample import adapter
from tests.reporting.site_catalog import EVIL, HOSTILE, hostile_catalog, large_catalog, real_catalog
from tests.reporting.site_tab import Site

LARGE = 10_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    catalog = real_catalog(root)
    lego_ray.write_catalog_site(catalog, output=root / "site", root=root / "library")
    return root / "site"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    lego_ray.write_catalog_site(large_catalog(root, LARGE), output=root / "site", check=False)
    return root / "site"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    lego_ray.write_catalog_site(hostile_catalog(root), output=root / "site", check=False)
    return root / "site"


@pytest.fixture
def site(browser: Browser) -> Iterator[Site]:
    """The browser; the test fails if a page complained, or asked for anything that is not on disk."""
    made = Site(browser)
    yield made
    assert browser.complaints() == []
    assert [u for u in (*made.asked, *browser.requests()) if not u.startswith("file:")] == []
    assert browser.run("return document.title") != "taken"


def choose(site: Site, label: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    label_of = f"//label[starts-with(normalize-space(text()), '{label}')]//select"
    Select(site.browser.driver.find_element(By.XPATH, label_of)).select_by_value(value)


def search(site: Site, text: str) -> None:
    box = site.browser.driver.find_element(By.CSS_SELECTOR, "input[type=search]")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(text or Keys.DELETE)
    asked = "return new URLSearchParams(location.hash.split('?')[1]).get('q') ?? ''"
    site.wait(lambda: site.browser.run(asked) == text)
    site.settle()


def test_adapters_are_searched_and_filtered(small: Path, site: Site) -> None:
    site.open(small, "#/adapters")
    assert site.found() == "10 adapters."
    search(site, "a3")
    assert [row[0].splitlines()[0] for row in site.rows("Adapters")] == ["a3"]
    search(site, "")
    choose(site, "Status", "refused")
    site.settle()
    [row] = site.rows("Adapters")
    assert row[0].startswith("dora")
    assert "UnsupportedAdapter" in row[5]
    choose(site, "Status", "")
    choose(site, "Rank", "6")
    site.settle()
    assert [row[0].splitlines()[0] for row in site.rows("Adapters")] == [EVIL]
    site.browser.driver.get(site.browser.driver.current_url)
    site.settle()
    assert site.found().startswith("1 adapter found"), "an address can be sent to somebody"


def test_a_walk_from_an_adapter_to_every_merge_and_back(small: Path, site: Site) -> None:
    site.open(small, "#/adapters")
    site.click("tbody a", "a1")
    site.arrive("a1")
    assert [row[0] for row in site.rows("Merges that hold")] == ["one, version 1"]
    nodes = site.browser.run(
        "return [...document.querySelectorAll('.node text:first-of-type')].map(e => e.textContent)"
    )
    assert nodes == ["a1", "one", "two"], "the merge that holds it, and the one that holds that"
    site.click(".graph a", "two")
    site.arrive("two, version 1")
    assert {row[0] for row in site.rows("Adapters in this merge")} == {"a0", "one"}
    site.click(".graph a", "one")
    site.arrive("one, version 1")
    assert len(site.rows("Adapters in this merge")) == 8
    assert [row[0] for row in site.rows("Merges that hold the output")] == ["two, version 1"]
    site.click("tbody a", "a1")
    site.wait(lambda: site.heading() == "a1")
    for title in ("one, version 1", "two, version 1", "a1", "Adapters"):
        site.browser.driver.back()
        site.arrive(title)


def test_health_says_what_the_check_and_gc_found(small: Path, site: Site) -> None:
    site.open(small, "#/health")
    text = site.browser.run("return document.body.innerText")
    assert "No problem was found in 2 merges." in text
    assert "gc would delete 0 files" in text
    tables = {row[0]: row[1] for row in site.rows("Tables")}
    assert tables["adapters"] == "10"
    assert tables["merges"] == "2"


def test_ten_thousand_adapters_are_loaded_as_they_are_shown(large: Path, site: Site) -> None:
    site.open(large)
    site.asked = site.browser.requests()
    before = set(site.data_files())
    assert "site" in before
    assert not any(name.startswith("adapters-") for name in before)
    site.go("#/adapters")
    assert site.found() == "10,100 adapters."
    assert {n for n in site.data_files() if n.startswith("adapter")} == {"adapters-0"}
    assert site.browser.run("return document.querySelectorAll('tbody tr').length") == 50
    for _ in range(2):
        site.click(".pager button", "Next")
        site.settle()
    assert site.rows("Adapters")[0][0].startswith("adapter-00100")
    assert {n for n in site.data_files() if n.startswith("adapter")} == {"adapters-0"}
    site.go("#/adapters?page=50")
    assert site.rows("Adapters")[0][0].startswith("adapter-02450")
    assert {n for n in site.data_files() if n.startswith("adapter")} == {"adapters-0", "adapters-4"}
    search(site, "number: 9876")
    assert [row[0].splitlines()[0] for row in site.rows("Adapters")] == ["adapter-09876"]
    assert len({n for n in site.data_files() if n.startswith("adapters-")}) == 21
    search(site, "team-3")
    choose(site, "Base model", "acme/base-1")
    site.settle()
    assert site.found().startswith("476 adapters found.")
    assert site.browser.run("return document.querySelectorAll('tbody tr').length") == 50
    assert site.browser.run("return document.querySelectorAll('*').length") < 3000
    site.click("tbody a", "adapter-00010")
    site.arrive("adapter-00010")
    assert len({n for n in site.data_files() if n.startswith("adapter-")}) == 1
    sizes = [file.stat().st_size for file in (large / "data").iterdir()]
    assert max(sizes) < 2**20


def test_merges_show_the_latest_version_or_all(large: Path, site: Site) -> None:
    site.open(large, "#/merges")
    assert site.found() == "20 merges found."
    choose(site, "Versions", "all")
    site.settle()
    assert site.found() == "60 merges."
    search(site, "topic-7")
    names = [row[0].splitlines()[0] for row in site.rows("Merges")]
    assert names == [f"topic-7, version {version}" for version in (3, 2, 1)]


def test_an_identity_is_searched_for_and_is_an_address_whole_or_in_part(
    large: Path, site: Site
) -> None:
    whole = f"{9876:04x}{9876 * 2654435761 % 2**32:08x}".ljust(64, "a")
    site.open(large, "#/adapters")
    for digits in (6, 12, 32, 40, 64):
        site.go("#/adapters")
        search(site, whole[:digits].upper())
        assert [row[0].splitlines()[0] for row in site.rows("Adapters")] == ["adapter-09876"], (
            digits
        )
        site.go(f"#/adapter/{whole[:digits]}")
        site.arrive("adapter-09876")
        site.go("#/")
    merge = f"{4:04x}{4 * 40503 % 2**16:04x}".ljust(64, "b")
    for digits in (6, 12, 64):
        site.go(f"#/merge/{merge[:digits]}")
        site.arrive("topic-1, version 2")
        site.go("#/")
    for wrong in (whole[:63] + "b", whole[:5], "f" * 12, whole + "a"):
        site.go(f"#/adapter/{wrong}")
        site.arrive("Not here")


def test_an_address_that_means_several_lists_them(site: Site, tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path / "catalog"))
    ids = [f"abcdef{i}".ljust(64, "0") for i in (1, 2)]
    catalog.append(
        "adapters", [adapter(adapter_id=each, uri=f"/zoo/one-{each[6]}") for each in ids]
    )
    lego_ray.write_catalog_site(tmp_path / "catalog", output=tmp_path / "site", check=False)
    site.open(tmp_path / "site", "#/adapter/abcdef")
    site.arrive("2 adapters begin with abcdef")
    listed = "return [...document.querySelectorAll('main li')].map(e => e.innerText)"
    assert site.browser.run(listed) == ["abcdef100000 one-1", "abcdef200000 one-2"]
    site.click("main li a", "one-2")
    site.arrive("one-2")


VIEWS = ("#/", "#/adapters", "#/merges?versions=all", "#/groups", "#/health")


def detail_views(site: Site) -> list[str]:
    """Addresses of the first adapter and the first merge that are listed."""
    found = []
    for view in ("#/adapters", "#/merges", "#/groups"):
        site.go(view)
        found += site.browser.run(
            "return [...document.querySelectorAll('tbody th a')].slice(0, 1).map(e => e.hash)"
        )
    return found


@pytest.mark.parametrize("which", ["small", "hostile"])
def test_every_view_fits_a_telephone(
    which: str, site: Site, request: pytest.FixtureRequest
) -> None:
    site.open(request.getfixturevalue(which), width=390)
    for view in (*VIEWS, *detail_views(site)):
        site.go(view)
        assert site.browser.run(
            "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        ), view
        sizes = site.browser.run(
            "return [...document.querySelectorAll('input, select, button')]"
            ".map(e => e.getBoundingClientRect().height)"
        )
        assert all(size >= 36 for size in sizes), "a finger finds it"


# Contrast of each text with what is behind it, by WCAG 2: below 4.5 is too little.
CONTRAST = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const light = c => parse(c).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => {
  const box = e.closest('.node')?.querySelector('rect');
  if (box) return getComputedStyle(box).fill;
  for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (color !== 'transparent' && parse(color)[3] !== 0) return color;
  }
};
return [...document.body.querySelectorAll('*')].filter(e => e.checkVisibility() &&
  !e.matches('button:disabled, title') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => {
    const ink = e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(ink), light(behind(e))].sort();
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 90)];
  })
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_by_day_and_by_night(small: Path, site: Site, dark: bool) -> None:
    site.open(small, dark=dark)
    for view in (*VIEWS, *detail_views(site)):
        site.go(view)
        measured = site.browser.run(CONTRAST)
        assert len(measured) >= 10
        assert [each for each in measured if each[0] < 4.5] == []


def focused(site: Site) -> str:
    return str(
        site.browser.run(
            "const e = document.activeElement; return (e.innerText || e.labels?.[0]?.innerText || "
            "e.getAttribute('aria-label') || e.textContent || '').trim().split('\\n')[0]"
        )
    )


def press(site: Site, *keys: str) -> None:
    for key in keys:
        ActionChains(site.browser.driver).send_keys(key).perform()


def test_everything_is_reached_by_keys(small: Path, site: Site) -> None:
    site.open(small)
    press(site, Keys.TAB)
    assert focused(site) == "Skip to the content"
    press(site, Keys.TAB, Keys.TAB)
    assert focused(site) == "Adapters"
    press(site, Keys.ENTER)
    site.wait(lambda: site.heading() == "Adapters")
    site.wait(lambda: focused(site) == "Adapters")
    assert site.browser.run("return document.activeElement.tagName") == "H1"
    press(site, Keys.TAB)
    assert focused(site).startswith("Search")
    press(site, "a", "2")
    site.wait(lambda: site.found().startswith("1 adapter found"))
    for _ in range(20):
        press(site, Keys.TAB)
        if site.browser.run("return document.activeElement.matches('tbody a')"):
            break
    assert focused(site) == "a2"
    ring = "return getComputedStyle(document.activeElement).outlineStyle"
    assert site.browser.run(ring) == "solid"
    press(site, Keys.ENTER)
    site.arrive("a2")
    for _ in range(20):
        press(site, Keys.TAB)
        if site.browser.run("return document.activeElement.matches('.graph a')"):
            break
    press(site, Keys.ENTER)
    site.arrive("one, version 1")


def test_pages_of_a_table_are_turned_by_keys(large: Path, site: Site) -> None:
    site.open(large, "#/adapters")
    site.browser.run("document.querySelector('.pager button:last-child').focus()")
    press(site, Keys.ENTER)
    site.wait(lambda: site.rows("Adapters")[0][0].startswith("adapter-00050"))
    assert focused(site) == "Next"


def test_words_of_others_mean_nothing_and_are_shown(hostile: Path, site: Site) -> None:
    site.open(hostile)
    shown = []
    for view in (*VIEWS, *detail_views(site)):
        site.go(view)
        shown.append(site.browser.run("return document.body.textContent"))
        assert site.browser.run("return document.querySelectorAll('img, #app script').length") == 0
        assert site.browser.run("return document.title") != "taken"
    text = "".join(shown)
    for one in HOSTILE[:2]:
        assert one.rsplit("/", 1)[-1] in text
    assert "naïve 日本語 שלום" in text
    assert "\u202e" not in text
    assert "{{ 7 * 7 }}${7 * 7}" in text
    site.go("#/adapters")
    choose(site, "Tag", "__proto__: x")
    site.settle()
    assert site.found().startswith(f"{len(HOSTILE)} adapters found")


def test_parts_have_names_and_one_title(small: Path, site: Site) -> None:
    site.open(small)
    for view in (*VIEWS, *detail_views(site)):
        site.go(view)
        assert site.browser.run("return document.querySelectorAll('h1').length") == 1
        unnamed = site.browser.run(
            "return [...document.querySelectorAll('a, button, input, select, [role=region]')]"
            ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel))"
            ".map(e => e.outerHTML)"
        )
        assert unnamed == []
        same = "const i = [...document.querySelectorAll('[id]')].map(e => e.id);"
        assert site.browser.run(f"{same} return new Set(i).size === i.length")


def test_an_address_of_nothing_says_so(small: Path, site: Site) -> None:
    site.open(small)
    for address in ("#/adapter/ffff", "#/merge/%E0%A4%A", "#/nonsense", "#/trials"):
        site.go(address)
        site.wait(lambda: site.heading() == "Not here")


def test_data_that_are_gone_are_said_to_be(small: Path, browser: Browser, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "site"
    shutil.copytree(small, copy)
    site = Site(browser)
    site.open(copy)
    for file in (copy / "data").glob("adapters-*"):
        file.unlink()
    browser.run("location.hash = '#/adapters'")
    site.wait(lambda: browser.run("return document.querySelector('[role=alert]') !== null"))
    assert "reload the page" in browser.run(
        "return document.querySelector('[role=alert]').innerText"
    )
    assert any("ERR_FILE_NOT_FOUND" in each for each in browser.complaints())
    browser.requests()
