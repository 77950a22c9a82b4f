"""Errors that are the machine's and not lego-ray's: too little memory, a package that is not whole.

They come from wherever a package is imported or memory is asked for, under many types; here they are
told apart from faults of the program, and become errors of the family.
"""

from __future__ import annotations

import errno
import re
import sys
from traceback import walk_tb

from lego_ray.errors import LegoRayError, MissingPackage, NoSpaceLeft, NotEnoughMemory

# What the packages used here say when an allocation, a mapping or a thread was refused.
_NO_MEMORY = re.compile(
    r"failed to map segment|cannot allocate memory|can't allocate memory|not enough memory"
    r"|std::bad_alloc|can't start new thread|out of memory|malloc of size \d+ failed"
    r"|unable to allocate|failed to allocate",
    re.IGNORECASE,
)
_NO_LIBRARY = re.compile(
    r"cannot open shared object file|undefined symbol|version `[^`']+' not found|invalid ELF header"
    r"|file too short|image not found|Library not loaded|wrong ELF class|symbol not found",
    re.IGNORECASE,
)
# Distributions by the module they are imported as, where the names differ.
_DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "botocore": "boto3",
    "grpc": "'ray[client]'",
    "matplotlib": "'lego-ray[report]'",
    "opencensus": "'lego-ray[metrics]'",
    "google": "protobuf",
    "dateutil": "python-dateutil",
    "attr": "attrs",
    "pydantic_core": "pydantic",
    "hf_xet": "hf-xet",
}
_WHERE = "this Python"


def of_the_machine(error: BaseException) -> LegoRayError | None:
    """The error of the family that an error stands for, or None if it may be a fault of the program.

    Args:
        error: One that is none of the family.
    """
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if _is_of_memory(error):
        return NotEnoughMemory(
            _WHERE, f"it did not get the memory it needs ({_line(text)}){_limit()}"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = str(error.filename or "where the output goes")
        return NoSpaceLeft(where, _line(text), "Free space, or send it elsewhere, and run again.")
    if isinstance(error, ModuleNotFoundError):
        return _missing(error.name or "", text)
    package = _package(error)
    if isinstance(error, OSError) and not _NO_LIBRARY.search(text):
        return None
    if isinstance(error, ImportError | OSError) and package not in ("", "lego_ray"):
        return MissingPackage(
            _WHERE,
            f"the package {package} is installed but cannot be loaded ({_line(text)})",
            f"Install it again: pip install --force-reinstall {_distribution(package)}; "
            "`pip check` lists the conflicts.",
        )
    return None


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # numpy and others put the reason of a failed import into words of their own.
    kinds = (ImportError, OSError, RuntimeError, SystemError)
    return isinstance(error, kinds) and bool(_NO_MEMORY.search(str(error)))


def _missing(module: str, text: str) -> MissingPackage | None:
    top = module.partition(".")[0]
    if top in ("", "lego_ray", "jobs", "tests"):
        return None
    if top in sys.stdlib_module_names:
        return MissingPackage(
            _WHERE,
            f"this Python was built without its module {top}",
            "Use another Python, or rebuild this one with what the module needs.",
        )
    return MissingPackage(
        _WHERE,
        f"the package {top} is not installed ({_line(text)})",
        f"pip install {_distribution(top)}; `pip check` says what else is missing.",
    )


def _package(error: BaseException) -> str:
    """The package whose import failed: what the error names, or the last one that its trace was in."""
    named = (getattr(error, "name", None) or "").partition(".")[0]
    if named:
        return str(named)
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top and top not in sys.stdlib_module_names and top != "__main__":
            return top
    return ""


def _distribution(module: str) -> str:
    return _DISTRIBUTIONS.get(module, module.replace("_", "-"))


def _line(text: str) -> str:
    """The first line of a message that may have pages."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first.rstrip(".:")


def _limit() -> str:
    """What this process may have, where that is bounded."""
    try:
        import resource
    except ImportError:  # not on this system
        return ""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return ""
    return f"; its address space is limited to {most / 2**30:.1f} GiB (`ulimit -v`)"
