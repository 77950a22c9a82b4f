"""The browser that tests look at pages with: what it takes for a request of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, requests_of


def asked(url: str) -> dict[str, Any]:
    return {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}


@pytest.mark.parametrize(
    "url",
    [
        "chrome://favicon2/?size=16&scaleFactor=1x&pageUrl=file%3A%2F%2F%2Fp.html",
        "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai/index.html",
        "chrome-untrusted://new-tab-page/",
        "devtools://devtools/bundled/inspector.html",
        "data:image/svg+xml,%3Csvg%3E",
        "blob:null/0f",
        "about:blank",
    ],
)
def test_what_the_browser_asks_of_itself_is_not_a_request_of_the_page(url: str) -> None:
    assert requests_of([asked(url), {"method": "Page.loadEventFired", "params": {}}]) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.js",
        "https://example.org/favicon.ico",
        "HTTPS://example.org",
        "//example.org/a.png",
        "ftp://example.org/a",
        "file:///etc/passwd",
        "http://chrome/favicon2",
    ],
)
def test_what_leaves_the_page_is_one(url: str) -> None:
    assert requests_of([asked(url)]) == [url]


@pytest.mark.parametrize("kind", ["webSocketCreated", "webTransportCreated"])
def test_a_socket_is_one_too(kind: str) -> None:
    opened = {"method": f"Network.{kind}", "params": {"url": "wss://example.org/"}}
    assert requests_of([opened]) == ["wss://example.org/"]


def test_a_browser_logs_what_a_page_asks_for_and_its_own_pages_ask_for_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    # Nothing listens at port 9; that it was asked is what counts.
    page.write_text(
        "<img src='http://127.0.0.1:9/a.png'><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>"
        "<script>new WebSocket('ws://127.0.0.1:9/b')</script>"
    )
    browser.open(page)
    expected = {page.as_uri(), "http://127.0.0.1:9/a.png", "ws://127.0.0.1:9/b"}
    found: set[str] = set()
    while not found >= expected:
        found |= set(browser.requests())
    assert found == expected
    browser.complaints()
    browser.driver.get("chrome://version")
    assert browser.requests() == browser.complaints() == []
