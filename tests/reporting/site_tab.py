"""A catalog's site in the browser, as a reader uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import Browser

PATIENCE = 60


class Site:
    """A site in the browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.asked: list[str] = []

    def open(self, site: Path, address: str = "#/", **how: Any) -> None:
        """Opens the site's index, then a view of it."""
        self.browser.open(site / "index.html", **how)
        self.wait(lambda: self.heading() != "")
        self.go(address)

    def go(self, address: str) -> None:
        """Goes to another view, and waits until it has all its data."""
        self.browser.run(f"location.hash = {address!r}")
        self.settle()

    def settle(self) -> None:
        self.wait(
            lambda: self.browser.run(
                "return !document.querySelector('script[src*=\"data/\"]:not([defer])') && "
                "[...document.querySelectorAll('[role=status]')].every(e => "
                "!/^Loading|still searching/.test(e.innerText) && "
                "!/still searching/.test(e.innerText))"
            )
        )

    def wait(self, so: Callable[[], object]) -> None:
        WebDriverWait(self.browser.driver, PATIENCE, poll_frequency=0.05).until(lambda _: so())

    def heading(self) -> str:
        return str(self.browser.run("return document.querySelector('h1')?.innerText ?? ''"))

    def arrive(self, title: str) -> None:
        """Waits for the view with this title, and all its data."""
        self.wait(lambda: self.heading() == title)
        self.settle()

    def rows(self, caption: str) -> list[list[str]]:
        """Cells of the table with this caption."""
        found: list[list[str]] = self.browser.run(
            "const t = [...document.querySelectorAll('table')].find(t => "
            f"t.caption.innerText.startsWith({caption!r}));"
            "return t ? [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.innerText)) : []"
        )
        return found

    def found(self) -> str:
        return str(self.browser.run("return document.querySelector('#found').innerText"))

    def data_files(self) -> list[str]:
        """Names of the data files asked for since the site was opened."""
        self.asked += self.browser.requests()
        return [Path(url).name.split(".")[0] for url in self.asked if "/data/" in url]

    def click(self, selector: str, text: str) -> None:
        links = self.browser.driver.find_elements(By.CSS_SELECTOR, selector)
        next(each for each in links if text in each.text).click()
