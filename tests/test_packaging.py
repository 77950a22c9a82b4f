"""The wheel has the whole package and nothing else, and works where the checkout is not."""

from __future__ import annotations

import email
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email.message import Message
from pathlib import Path

import pytest

import lego_ray
from tests.zoo import write_zoo

ROOT = Path(lego_ray.__file__).parents[1]
BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)
# Of an interpreter that has imported lego_ray, or answered `lego-ray --help`, none of these is wanted.
HEAVY = {
    *("torch", "ray", "numpy", "scipy", "pyarrow", "duckdb", "deltalake", "pydantic"),
    *("boto3", "botocore", "huggingface_hub", "safetensors", "matplotlib", "jinja2"),
}


def built(kind: str, source: Path, into: Path) -> Path:
    """What a build front end makes of a source tree, by the same hook, without a network."""
    into.mkdir()
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(into)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    [made] = into.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, of a copy: building leaves things beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    shutil.copy(ROOT / "constraints.txt", source)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("lego_ray", "tests", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    return built("sdist", source, source / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source distribution alone."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    return built("wheel", source, unpacked / "dist")


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [path] = [p for p in archive.namelist() if p.endswith(f".dist-info/{name}")]
        return archive.read(path).decode()


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "lego_ray"
    here = {str(p.relative_to(ROOT)) for p in package.rglob("*") if p.is_file()}
    assert found == {name for name in here if "__pycache__" not in name}
    assert "lego_ray/py.typed" in found
    assert wheel.name == f"lego_ray-{lego_ray.__version__}-py3-none-any.whl"


def test_the_source_distribution_has_the_versions_that_are_tested(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"constraints.txt", "CHANGELOG.md", "LICENSE", "README.md"} <= names
    assert not any(name.startswith(("tests/", "jobs/")) for name in names)


def test_an_index_takes_both_and_shows_the_readme(sdist: Path, wheel: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


def test_what_it_says_of_itself(wheel: Path) -> None:
    said: Message = email.message_from_string(metadata(wheel, "METADATA"))
    assert said["Version"] == lego_ray.__version__
    assert said["License-Expression"] == "Apache-2.0"
    assert "# lego-ray" in str(said.get_payload())
    assert {"cloud", "hub", "report", "metrics"} <= set(said.get_all("Provides-Extra", []))
    needs = said.get_all("Requires-Dist", [])
    for extra in ("cloud", "hub", "report", "metrics"):
        assert len([need for need in needs if f'extra == "{extra}"' in need]) <= 1
    base = [need for need in needs if "extra ==" not in need]
    assert not any(name in need for need in base for name in ("matplotlib", "pytest", "peft"))
    points = ConfigParser()
    points.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {"lego-ray": "lego_ray.__main__:main"}


def test_a_release_leads_to_the_repository(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    home = "https://example.org/acme/lego-ray"
    release = runpy.run_path(str(ROOT / "deploy/release/dist.py"))
    release["lead_home"](source, home)
    made = built("wheel", source, source / "dist")
    said: Message = email.message_from_string(metadata(made, "METADATA"))
    assert f"Homepage, {home}" in said.get_all("Project-URL", [])
    links = re.findall(r"\]\(([^)]*)\)", str(said.get_payload()))
    own = [link for link in links if link.startswith(home)]
    assert {link for link in links if "://" not in link} == set()
    assert len(own) > 30
    at = f"v{lego_ray.__version__}"
    for link in own:
        kind, tag, file = link.removeprefix(f"{home}/").split("/", 2)
        assert (kind, tag) == ("raw" if file.endswith(".png") else "blob", at)
        assert (ROOT / file.partition("#")[0]).exists()


def test_links_in_code_are_left_alone() -> None:
    release = runpy.run_path(str(ROOT / "deploy/release/dist.py"))
    page = "[a](b.md#c) [d](#e) [f](https://g)\n```\n[a](b.md)\n```\n![h](i.png)"
    assert release["absolute"](page, "https://h", "v1") == (
        "[a](https://h/blob/v1/b.md#c) [d](#e) [f](https://g)\n```\n[a](b.md)\n```\n"
        "![h](https://h/raw/v1/i.png)"
    )


def test_what_is_installed_merges_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    place, here = tmp_path / "site", tmp_path / "here"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(place), str(wheel)], check=True)
    write_zoo(here / "zoo", 2)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    words = ["merge", "zoo", "--rank", "2", "--output", "out", "--runner", "inline", "--json"]
    ran = (
        "import sys, lego_ray; print(lego_ray.__file__, file=sys.stderr);"
        f"from lego_ray.cli.main import main; main({words!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", ran],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(place / "lego_ray" / "__init__.py") in done.stderr.splitlines()
    assert len(json.loads(done.stdout)["adapters"]) == 2
    assert (here / "out" / "adapter_config.json").exists()
    assert "merged from 2 adapters" in (here / "out" / "README.md").read_text("utf-8")
    program = place / "bin" / "lego-ray"
    told = subprocess.run(
        [str(program), "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == f"lego-ray, version {lego_ray.__version__}\n"


@pytest.mark.parametrize(
    "does",
    ["import lego_ray; dir(lego_ray)", "from lego_ray.cli.main import main; main(['--help'])"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(does: str) -> None:
    code = f"import sys\ntry:\n    {does}\nfinally:\n    print('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "lego_ray" in loaded
    assert loaded & HEAVY == set()


def test_every_call_promised_is_there() -> None:
    for name in lego_ray.__all__:
        assert getattr(lego_ray, name) is not None
    assert set(lego_ray.__all__) <= set(dir(lego_ray))
