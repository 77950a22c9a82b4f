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
from lego_ray.planning.ranks import Spectrum
from lego_ray.tasks.values import SiteResult, TaskResult

if TYPE_CHECKING:
    from lego_ray.planning.plan import SitePlan

_SEAL = "sha256"
# Hashes of a zoo's tensors are text, but the format limits its metadata to 100 MB.
_HASHES = "tensor_hashes"
_SOURCES = "sources"
_KEPT = "full_weights"
_SPECTRUM = "spectrum"
_APART = ("sites", "quarantined", "tensor_hashes", "full_weights", "spectra", "similarities")


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
        values: dict[str, Any] = {"site": site.plan.site}
        for each in fields(SiteResult):
            value = getattr(site, each.name)
            if isinstance(value, np.ndarray):
                arrays[f"{number}.{each.name}"] = np.ascontiguousarray(value)
            elif each.name != "plan":
                values[each.name] = value
        sites.append(values)
    for number, spectrum in enumerate(result.spectra):
        arrays[f"{_SPECTRUM}.{number}"] = np.ascontiguousarray(spectrum.energies)
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
            "spectra": [[spectrum.site, spectrum.width] for spectrum in result.spectra],
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


def decode_checkpoint(data: bytes, plan: str, sites: Mapping[str, SitePlan]) -> Checkpoint:
    """Reads a checkpoint's file.

    Args:
        data: Its bytes.
        plan: Digest of the plan that is run, or of its work.
        sites: That plan's sites, by name.

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
        return _checkpoint(about, arrays, sites)
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
    about: Summary, arrays: Mapping[str, NDArray[Any]], sites: Mapping[str, SitePlan]
) -> Checkpoint:
    solved = []
    for number, saved in enumerate(about.sites):
        mine = {f.name: arrays.get(f"{number}.{f.name}") for f in fields(SiteResult)}
        plain = saved.model_dump(exclude={"site"}, exclude_unset=True)
        solved.append(SiteResult(**{**mine, **plain, "plan": sites[saved.site]}))
    spectra = [
        Spectrum(site, width, arrays[f"{_SPECTRUM}.{number}"])
        for number, (site, width) in enumerate(about.spectra)
    ]
    hashes = json.loads(arrays[_HASHES].tobytes())
    result = TaskResult(
        sites=tuple(solved),
        spectra=tuple(spectra),
        quarantined={int(k): _error(*said) for k, said in about.quarantined.items()},
        tensor_hashes={int(k): tuple((n, h) for n, h in pairs) for k, pairs in hashes.items()},
        full_weights={
            name: arrays[f"{_KEPT}.{number}"].tobytes()
            for number, name in enumerate(about.full_weights)
        },
        **about.result.model_dump(exclude_unset=True),
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


def _made_by() -> str:
    """What the bits of a result depend on besides the plan: another torch may add in another order."""
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
