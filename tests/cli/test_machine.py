"""Too little memory, or a package missing or broken, is not called a fault of lego-ray.

In processes of their own, limited or kept from a package for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lego_ray.errors import LegoRayError, MissingPackage, NoSpaceLeft, NotEnoughMemory
from lego_ray.faults import of_the_machine
from tests.zoo import files_of, write_zoo

SECONDS = 240
# Imported by Python before anything else: what it names is not there, or breaks as it is loaded.
BLOCKER = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == os.environ["BLOCKED"]:
            if words := os.environ["BREAKS"]:
                raise ImportError(words, name=name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("machine") / "zoo", 2)


def run(*words: object, shell: str = "", **environ: str) -> tuple[int, dict[str, object], str]:
    """The exit status, what `--json` says of the error, and stderr."""
    command = [sys.executable, "-m", "lego_ray", *map(str, words), "--json"]
    done = subprocess.run(
        ["bash", "-c", f'{shell} exec "$@"', "bash", *command],
        # More threads need more address space, as many as there are cores.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)["error"], done.stderr


def blocking(folder: Path, package: str, breaks: str = "") -> dict[str, str]:
    """The environment of a Python that lacks a package, or has one that cannot be loaded."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(folder), "BLOCKED": package, "BREAKS": breaks}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps no limit on address space")
# In between a library would end the process as it is loaded: which one, depends on the order.
@pytest.mark.parametrize(
    "kibibytes", [150_000, 155_000, 200_000, 300_000, 400_000, 700_000, 800_000, 850_000, 1_000_000]
)
def test_too_little_address_space_is_told_as_such(
    kibibytes: int, zoo: Path, tmp_path: Path
) -> None:
    words = ("merge", zoo, "--rank", 4, "--output", tmp_path / "m", "--runner", "inline")
    status, told, err = run(*words, shell=f"ulimit -v {kibibytes};")
    assert (status, told["type"]) == (1, "NotEnoughMemory")
    assert "ulimit -v" in str(told["next"])
    assert err.splitlines()[-1].startswith("NotEnoughMemory: this Python: ")
    assert "fault of lego-ray" not in err
    assert "Traceback" not in err
    assert files_of(tmp_path / "m") == {}


@pytest.mark.parametrize(
    ("package", "install", "words"),
    [
        ("torch", "torch", ("merge", "ZOO", "--rank", "4", "--output", "m", "--runner", "inline")),
        ("ray", "ray", ("merge", "ZOO", "--rank", "4", "--output", "m", "--runner", "ray")),
        ("yaml", "pyyaml", ("build", "library.yaml")),
        ("deltalake", "deltalake", ("catalog", "list", "--catalog", "c")),
        ("pyarrow", "pyarrow", ("scan", "ZOO", "--catalog", "c")),
        ("duckdb", "duckdb", ("catalog", "sql", "SELECT 1", "--catalog", "c")),
        ("boto3", "boto3", ("scan", "s3://bucket/zoo", "--catalog", "c")),
        ("huggingface_hub", "huggingface-hub", ("scan", "hf://acme/zoo", "--catalog", "c")),
    ],
)
def test_a_package_that_is_missing_is_told_with_how_to_install_it(
    package: str, install: str, words: tuple[str, ...], zoo: Path, tmp_path: Path
) -> None:
    given = [str(zoo) if word == "ZOO" else word for word in words]
    places = [str(tmp_path / word) if word in ("m", "c") else word for word in given]
    status, told, err = run(*places, **blocking(tmp_path, package))
    assert (status, told["type"]) == (2, "MissingPackage")
    assert f"the package {package} is not installed" in str(told["message"])
    assert str(told["next"]).startswith(f"pip install {install};")
    assert "fault of lego-ray" not in err


def test_a_package_that_is_broken_is_told_with_how_to_install_it_again(
    zoo: Path, tmp_path: Path
) -> None:
    words = ("merge", zoo, "--rank", 4, "--output", tmp_path / "m", "--runner", "inline")
    breaks = "libcudart.so.12: cannot open shared object file: No such file or directory"
    status, told, err = run(*words, **blocking(tmp_path, "torch", breaks))
    assert (status, told["type"]) == (2, "MissingPackage")
    assert breaks in str(told["message"])
    assert "pip install --force-reinstall torch" in str(told["next"])
    assert "fault of lego-ray" not in err


def test_a_worker_that_lacks_a_package_or_memory_says_so(local_ray: None) -> None:
    import ray

    from lego_ray.runners.ray.answers import get

    def lacks() -> None:
        raise ModuleNotFoundError("No module named 'boto3'", name="boto3")

    def starves() -> None:
        raise MemoryError

    for task, kind in ((lacks, MissingPackage), (starves, NotEnoughMemory)):
        with pytest.raises(kind):
            get(ray.remote(task).remote(), "a task")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), NotEnoughMemory),
        (OSError(12, "Cannot allocate memory"), NotEnoughMemory),
        (RuntimeError("can't start new thread"), NotEnoughMemory),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            NotEnoughMemory,
        ),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), NotEnoughMemory),
        (ModuleNotFoundError("No module named '_lzma'", name="_lzma"), MissingPackage),
        (ImportError("cannot import name 'X' from 'duckdb'", name="duckdb"), MissingPackage),
        (ModuleNotFoundError("No module named 'lego_ray.x'", name="lego_ray.x"), None),
        (ImportError("cannot import name 'x'", name="lego_ray.errors"), None),
        (OSError(28, "No space left on device"), NoSpaceLeft),
        (OSError(2, "No such file or directory"), None),
        (BlockingIOError(11, "Resource temporarily unavailable"), None),
        (RuntimeError("shapes differ"), None),
        (KeyError("out of memory"), None),
    ],
    ids=str,
)
def test_which_errors_are_the_machine_s(error: Exception, kind: type[LegoRayError] | None) -> None:
    found = of_the_machine(error)
    assert found is None if kind is None else type(found) is kind
