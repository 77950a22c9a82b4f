"""A real browser for tests: headless Chromium, driven through its own chromedriver.

`browser` opens pages from disk and says what went wrong there. Without the two programs the tests that
use it are skipped, and fail where `CI` is set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromedriver")
# A busy machine takes its time.
SECONDS = 60
_FLAGS = (
    "--headless=new",
    # Tests may run as root in a container, where Chromium's sandbox cannot be set up.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)
# Schemes of what a browser asks of itself (an icon for its own tab, its start page, extensions), and of
# what a page holds itself. No other machine is asked, and releases of Chromium differ in what they log.
_OWN_SCHEMES = frozenset(
    [
        *("about", "blob", "data", "filesystem", "chrome", "chrome-error", "chrome-extension"),
        *("chrome-native", "chrome-search", "chrome-untrusted", "devtools", "isolated-app"),
    ]
)


class Browser:
    """One tab."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self,
        page: Path,
        *,
        width: int = 1280,
        height: int = 900,
        scale: int = 1,
        dark: bool = False,
    ) -> None:
        """Opens a page from disk to its end, in a window of that size in pixels of CSS, day or night."""
        from selenium.webdriver.support.wait import WebDriverWait

        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # An empty page comes first: if the same page is open, the driver of a busy machine can mistake
        # the old document for the new one, and go on when half of the new one is there.
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.as_uri())
        WebDriverWait(self.driver, SECONDS).until(
            lambda driver: driver.execute_script(
                "return location.protocol === 'file:' && document.readyState === 'complete'"
            )
        )

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns; the page's policy does not bind it."""
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the browser logged about the page: errors, warnings, what its policy kept out."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        # A message begins with the address of what it is about.
        return [message for message in messages if not _is_own(message.partition(" ")[0])]

    def requests(self) -> list[str]:
        """Every address the page asked for since it was opened."""
        entries = self.driver.get_log("performance")
        return requests_of([json.loads(entry["message"])["message"] for entry in entries])


def requests_of(events: list[Mapping[str, Any]]) -> list[str]:
    """The addresses a page asked for, without what it holds itself and what the browser asks itself.

    Args:
        events: Those of DevTools, each with `method` and `params`.
    """
    urls = []
    for event in events:
        params = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            urls.append(params["request"]["url"])
        elif event["method"] in ("Network.webSocketCreated", "Network.webTransportCreated"):
            urls.append(params["url"])
    return [url for url in urls if not _is_own(url)]


def _is_own(url: str) -> bool:
    return urlsplit(url).scheme in _OWN_SCHEMES


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing := missing_programs():
        sentence = f"{' and '.join(missing)} not found; Debian has chromium and chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def missing_programs() -> list[str]:
    """Those of the two programs that this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with one tab, until the block ends.

    Args:
        profile: An empty folder for what Chromium keeps.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
