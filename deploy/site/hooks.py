"""Makes the site of the repository's own pages: those of `docs/`, and some that lie elsewhere.

The pages link to each other as files of the repository, where people read them too. On the site they
have other places. A file that is not a page of the site is named without a link.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
DOCS = "docs"
# Pages that lie elsewhere, by their file.
PAGES = {
    "README.md": "index.md",
    "deploy/README.md": "deploy.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
    "jobs/results/quality.md": "quality.md",
}
API = "api.md"
_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
# What stands beside the language of a block: the file that it is, or why the tests do not run it.
_BESIDE = re.compile(r"^```(\w+) +(.+)$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie elsewhere, and the reference of the Python calls."""
    from mkdocs.structure.files import File

    for source, target in PAGES.items():
        text = relinked((ROOT / source).read_text("utf-8"), source)
        files.append(File.generated(config, target, content=text))
    files.append(File.generated(config, API, content=api_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads the links of a page of `docs/` to where their pages are on the site."""
    uri = page.file.src_uri
    return markdown if uri in {*PAGES.values(), API} else relinked(markdown, f"{DOCS}/{uri}")


def relinked(markdown: str, source: str) -> str:
    """A page with its links as those of the site; code is left as it is.

    Args:
        markdown: The page.
        source: Its file in the repository.
    """
    here = PAGES.get(source, posixpath.relpath(source, DOCS))

    def link(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if "://" in target or target.startswith("mailto:") or not target:
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = PAGES.get(file)
        if there is None and file.startswith(f"{DOCS}/"):
            there = posixpath.relpath(file, DOCS)
        if there is None:  # not on the site
            return text if "`" in text else f"{text} (`{file}`)"
        return (
            f"{picture}[{text}]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor})"
        )

    out, done = [], 0
    for fence in _FENCE.finditer(markdown):
        out += [_LINK.sub(link, markdown[done : fence.start()]), _BESIDE.sub(_opening, fence[0], 1)]
        done = fence.end()
    return "".join([*out, _LINK.sub(link, markdown[done:])])


def _opening(found: re.Match[str]) -> str:
    """The first line of a block as the site's parser takes it; at others it loses the headings after."""
    language, beside = found[1], found[2]
    return f"```{language}" + (f' title="{beside}"' if re.fullmatch(r"[\w.-]+", beside) else "")


def api_page() -> str:
    """The reference of what the package exports, each name from the module that defines it.

    The package is not imported: it loads names when they are used, which a reader of its source cannot
    follow.
    """
    homes: dict[str, str] = {}
    for node in ast.walk(ast.parse((ROOT / "lego_ray/__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lego_ray."):
            homes |= {name.name: node.module for name in node.names}
    calls = sorted(name for name in homes if name[0].islower())
    records = sorted(name for name in homes if name[0].isupper())
    lines = ["# Python calls and records", "", "[Python](python.md) shows them in use.", ""]
    for title, names in (("Calls", calls), ("Records", records)):
        lines += [f"## {title}", ""]
        lines += [line for name in names for line in (f"::: {homes[name]}.{name}", "")]
    return "\n".join(lines)
