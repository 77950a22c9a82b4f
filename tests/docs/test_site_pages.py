"""What `make site` makes of the pages: each is in its menu, and links lead to pages of the site."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

import lego_ray
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "deploy/site/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_menu_once(hooks: ModuleType) -> None:
    settings = (ROOT / "deploy/site/mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    wanted = [*pages, *hooks.PAGES.values(), hooks.API]
    assert sorted(re.findall(r"- ([\w-]+\.md)$", settings, re.MULTILINE)) == sorted(wanted)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("README.md", "[a](docs/ray.md#x)", "[a](ray.md#x)"),
        ("docs/tune.md", "[a](../deploy/README.md)", "[a](deploy.md)"),
        ("docs/tune.md", "[a](ray.md), [b](#c)", "[a](ray.md), [b](#c)"),
        ("README.md", "![a](docs/images/report.png)", "![a](images/report.png)"),
        ("docs/site.md", "![a](images/site.png)", "![a](images/site.png)"),
        ("deploy/README.md", "[a](../docs/ray.md)", "[a](ray.md)"),
        ("docs/tune.md", "[code](../lego_ray/errors.py)", "code (`lego_ray/errors.py`)"),
        ("docs/tune.md", "[a](https://b.example/c)", "[a](https://b.example/c)"),
        ("README.md", "```\n[a](docs/ray.md)\n```", "```\n[a](docs/ray.md)\n```"),
        ("docs/ray.md", "```bash no-run: needs a bucket\nls\n```", "```bash\nls\n```"),
        ("docs/tune.md", "```yaml a.yaml\na: 1\n```", '```yaml title="a.yaml"\na: 1\n```'),
    ],
)
def test_a_link_leads_to_a_page_of_the_site(
    hooks: ModuleType, source: str, text: str, expected: str
) -> None:
    assert hooks.relinked(text, source) == expected


def test_the_reference_has_every_call_and_record(hooks: ModuleType) -> None:
    shown = re.findall(r"^::: [\w.]+\.(\w+)$", hooks.api_page(), re.MULTILINE)
    # Modules have pages of their own.
    assert {*lego_ray.__all__} - {*shown} <= {"catalog", "errors", "__version__"}
    assert len(shown) == len(set(shown))
