"""Makes the files of a release for a package index, from the last commit.

    python deploy/release/dist.py https://github.com/OWNER/lego-ray --out dist

An index shows the README without the repository around it, so links and pictures get addresses of the
release's tag there, and the index gets the repository's address. `make dist` installs what it needs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\((?![a-z][a-z+.-]*:|#)([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def main() -> None:
    """Makes a wheel and a source distribution."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("home", help="Address of the repository.")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="Where to write them.")
    given = parser.parse_args()
    home = given.home.rstrip("/")
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", home):
        parser.error(f"{given.home!r} is not an address such as https://github.com/OWNER/lego-ray")
    archive = subprocess.run(
        ["git", "archive", "--format=tar", "HEAD"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as tree:
            tree.extractall(folder, filter="data")
        lead_home(Path(folder), home)
        words = [sys.executable, "-m", "build", "--outdir", str(given.out.absolute()), folder]
        subprocess.run(words, check=True)
    made = sorted(map(str, given.out.glob("lego_ray-*")))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], check=True)


def lead_home(tree: Path, home: str) -> None:
    """Puts the repository's addresses into a copy of the sources.

    Args:
        tree: The copy.
        home: Address of the repository, without a slash at its end.
    """
    project = tree / "pyproject.toml"
    text = project.read_text("utf-8")
    at = f"v{tomllib.loads(text)['project']['version']}"
    urls = {
        "Homepage": home,
        "Documentation": f"{home}/tree/{at}/docs",
        "Changelog": f"{home}/blob/{at}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    lines = "\n".join(f'{name} = "{url}"' for name, url in urls.items())
    project.write_text(text.replace("[project.urls]\n", f"[project.urls]\n{lines}\n", 1), "utf-8")
    readme = tree / "README.md"
    readme.write_text(absolute(readme.read_text("utf-8"), home, at), "utf-8")


def absolute(markdown: str, home: str, at: str) -> str:
    """A page of the repository's top with absolute links; code is left as it is.

    Args:
        markdown: The page.
        home: Address of the repository.
        at: The branch, tag or commit that links lead to.
    """

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({home}/{'raw' if picture else 'blob'}/{at}/{target})"

    parts = _FENCE.split(markdown)
    return "".join(p if p.startswith("```") else _LINK.sub(link, p) for p in parts)


if __name__ == "__main__":
    main()
