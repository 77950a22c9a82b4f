"""A task's result as the bytes of a file, and back, every bit of it.

A file is in the safetensors format: arrays are tensors, and the rest is one JSON text in the metadata,
so that a file's summary can be read without its arrays. No pickle: a checkpoint lies in a store that
others may write to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lego_ray import errors
from lego_ray.formats.safetensors_arrays import arrays_of
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.output.checkpoints.run_folder import (
    CHECKPOINT_VERSION,
    TEXT,
    Summary,
    UnreadableCheckpoint,
    parse_text,
)
from lego_ray.sources.tensor_hashes import TensorHashes
from lego_ray.tasks.values import SiteResult, TaskResult

if TYPE_CHECKING:
    from lego_ray.planning.task_plans import SitePlan

_SEAL = "sha256"
# Hashes of a zoo's tensors are text, but the format limits its metadata to 100 MB.
_HASHES = "tensor_hashes"
_SOURCES = "sources"
_KEPT = "full_weights"
_FOUND = "found"
_APART = (
    "sites",
    "quarantined",
    "tensor_hashes",
    "full_weights",
    "found",
    "n_found",
    "kept",
    "rows",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A task's result, and what it was a result of.

    Attributes:
        plan: Digest of the plan that was run.
        number: Which plan of its run that was, from 1; another is made when adapters turn out bad.
        of_sites: Sites that plan has.
        covers: Names of the sites the task was to solve.
        result: What it returned.
        saved_at: When that was, in UTC, as ISO 8601 has it.
        sources: URI and store's mark of each adapter that was read for it, by number; empty in files of
            releases that had the marks in the plan's digest.
        work: Digest of the plan's work, as in `Plan`; empty in files of earlier releases.
    """

    plan: str
    number: int
    of_sites: int
    covers: tuple[str, ...]
    result: TaskResult
    saved_at: str = ""
    sources: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    work: str = ""


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The bytes of a checkpoint's file."""
    from safetensors.numpy import save

    result = checkpoint.result
    arrays: dict[str, NDArray[Any]] = {}
    sites = []
    for number, site in enumerate(result.sites):
        values = {"site": site.plan.site, **_taken_apart(site, str(number), arrays)}
        del values["plan"]
        sites.append(values)
    found = [
        _taken_apart(each, f"{_FOUND}.{number}", arrays) for number, each in enumerate(result.found)
    ]
    for number, raw in enumerate(result.full_weights.values()):
        arrays[f"{_KEPT}.{number}"] = np.frombuffer(raw, np.uint8)
    hashes = json.dumps({str(k): v for k, v in result.tensor_hashes.items()})
    arrays[_HASHES] = np.frombuffer(hashes.encode(), np.uint8)
    sources = json.dumps({str(k): v for k, v in checkpoint.sources.items()})
    arrays[_SOURCES] = np.frombuffer(sources.encode(), np.uint8)
    # Python writes the shortest text that gives a float back, NaN and infinity included.
    text = json.dumps(
        {
            "version": CHECKPOINT_VERSION,
            "plan": checkpoint.plan,
            "work": checkpoint.work,
            "number": checkpoint.number,
            "of_sites": checkpoint.of_sites,
            "saved_at": checkpoint.saved_at,
            "made_by": _made_by(),
            "covers": checkpoint.covers,
            "sites": sites,
            "found": found,
            "quarantined": {
                str(number): [type(error).__name__, error.where, error.problem, error.hint]
                for number, error in result.quarantined.items()
            },
            "full_weights": list(result.full_weights),
            "result": {
                f.name: getattr(result, f.name) for f in fields(TaskResult) if f.name not in _APART
            },
        }
    )
    data: bytes = save(arrays, {TEXT: text, _SEAL: _seal(text, arrays)})
    return data


def _taken_apart(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The fields of a dataclass that are not arrays; those that are go among the arrays.

    Args:
        value: The dataclass.
        name: What its arrays are called, before the name of the field.
        arrays: Takes them.
    """
    plain = {each.name: getattr(value, each.name) for each in fields(value)}
    for each in [each for each in plain if isinstance(plain[each], np.ndarray)]:
        arrays[f"{name}.{each}"] = np.ascontiguousarray(plain.pop(each))
    return plain


def _put_together(
    kind: type[Any], name: str, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Any:
    """The dataclass that `_taken_apart` gave these of."""
    own = {each.name: arrays.get(f"{name}.{each.name}") for each in fields(kind)}
    return kind(**{**own, **plain})


def decode_checkpoint(
    data: bytes, plan: str, sites: Mapping[str, SitePlan], finding: type[Any] | None = None
) -> Checkpoint:
    """Reads a checkpoint's file.

    Args:
        data: Its bytes.
        plan: Digest of the plan that is run, or of its work.
        sites: That plan's sites, by name.
        finding: `finding` of the plan's pass.

    Raises:
        UnreadableCheckpoint: If it is damaged, or of another plan, or made by another lego-ray or torch.
    """
    try:
        size = header_length(data[:LENGTH_BYTES], len(data), "")
        header = data[LENGTH_BYTES : LENGTH_BYTES + size]
        spans, metadata = parse_header(header, len(data), "")
        about = parse_text(metadata)
        if plan not in (about.plan, about.work):
            raise UnreadableCheckpoint("it is of another plan")
        if about.made_by != _made_by():
            raise UnreadableCheckpoint(f"it was made by {about.made_by}, this is {_made_by()}")
        arrays = arrays_of(data, spans)
        if _seal(metadata[TEXT], arrays) != metadata[_SEAL]:
            raise UnreadableCheckpoint("its sha256 is not the one it gives")
        return _checkpoint(about, arrays, sites, finding)
    except (
        errors.MalformedAdapter,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        problem = error.problem if isinstance(error, errors.LegoRayError) else repr(error)
        raise UnreadableCheckpoint(problem) from error


def _checkpoint(
    about: Summary,
    arrays: Mapping[str, NDArray[Any]],
    sites: Mapping[str, SitePlan],
    finding: type[Any] | None,
) -> Checkpoint:
    solved = []
    for number, saved in enumerate(about.sites):
        plain = saved.model_dump(exclude={"site"}, exclude_unset=True)
        plain["plan"] = sites[saved.site]
        solved.append(_put_together(SiteResult, str(number), plain, arrays))
    found, arrays = _found_in(about, arrays)
    if not sites.keys() >= {each["site"] for each in found}:
        raise UnreadableCheckpoint("it has sites the plan has not")
    if found and finding is None:
        raise UnreadableCheckpoint("it is of another pass")
    findings = [
        _put_together(finding, f"{_FOUND}.{number}", each, arrays)
        for number, each in enumerate(found)
        if finding is not None
    ]
    hashes = json.loads(arrays[_HASHES].tobytes())
    told = about.result.model_dump(exclude_unset=True)
    losses = tuple((int(n), str(s), float(x), float(y)) for n, s, x, y in told.pop("losses", ()))
    result = TaskResult(
        sites=tuple(solved),
        found=tuple(findings),
        n_found=len(findings),
        quarantined={int(k): _error(*said) for k, said in about.quarantined.items()},
        tensor_hashes=TensorHashes((int(number), pairs) for number, pairs in hashes.items()),
        full_weights={
            name: arrays[f"{_KEPT}.{number}"].tobytes()
            for number, name in enumerate(about.full_weights)
        },
        losses=losses,
        **told,
    )
    if not sites.keys() >= set(about.covers):
        raise UnreadableCheckpoint("it has sites the plan has not")
    sources = json.loads(arrays[_SOURCES].tobytes()) if _SOURCES in arrays else {}
    return Checkpoint(
        about.plan,
        about.number,
        about.of_sites,
        about.covers,
        result,
        about.saved_at,
        {int(number): (str(uri), str(mark)) for number, (uri, mark) in sources.items()},
    )


def _found_in(
    about: Summary, arrays: Mapping[str, NDArray[Any]]
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, NDArray[Any]]]:
    """What a pass that does not merge found, without arrays; and the arrays by their present names.

    Earlier releases had an entry for what measuring found.
    """
    named = {f"{_FOUND}.{n}.energies": arrays[f"spectrum.{n}"] for n in range(len(about.spectra))}
    found = [each.model_dump(exclude_unset=True) for each in about.found]
    found += [{"site": site, "width": width} for site, width in about.spectra]
    return found, {**arrays, **named}


def _made_by() -> str:
    """What a result's bits depend on apart from the plan: another torch may add in another order."""
    return ", ".join(f"{package} {version(package)}" for package in ("lego-ray", "torch"))


def _error(name: str, where: str, problem: str, hint: str) -> errors.LegoRayError:
    kind = getattr(errors, name)
    if not (isinstance(kind, type) and issubclass(kind, errors.LegoRayError)):
        raise UnreadableCheckpoint(f"{name} is not an error of this release")
    return kind(where, problem, hint)


def _seal(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hex sha256 over everything a checkpoint holds."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"\n{name} {arrays[name].dtype} {_shape(arrays[name].shape)}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _shape(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
