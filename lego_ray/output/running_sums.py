"""What an updatable merge keeps beside the adapter: its running sums, and whose they are.

One file in the safetensors format under a name that no loader of adapters looks for. It is a function of
the fit and of which adapters are in, whatever the versions between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.forms import Form, Many, read_as, sentence_of
from lego_ray.formats.safetensors_arrays import arrays_of
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.lazy import torch
from lego_ray.numerics.kmeans.running_sums import Members, RunningSite, SiteFit
from lego_ray.output.manifest import Source
from lego_ray.planning.task_plans import SitePlan
from lego_ray.tasks.values import SiteResult

STATE_KEY = "lego_ray_running_sums.dat"
STATE_VERSION = 1
_ABOUT = "about"


@dataclass(frozen=True, slots=True)
class StateSite:
    """One site.

    Attributes:
        plan: As the fit planned it.
        inertia: What the fit left.
        running: Its sums.
    """

    plan: SitePlan
    inertia: float
    running: RunningSite


@dataclass(frozen=True, slots=True)
class State:
    """Everything that updates need apart from the manifest.

    Attributes:
        fit: merge_id of the merge that read all its adapters.
        carried: What the merged adapter takes over of its sources' configurations.
        fitted: The fit's adapters, as a manifest lists them, in its order.
        present: Whether each of them is in now.
        added: Adapters that are in now and were not in the fit, listed as in a manifest.
        sites: Every site of the fit.
    """

    fit: str
    carried: Mapping[str, Any]
    fitted: tuple[Mapping[str, Any], ...]
    present: tuple[bool, ...]
    added: tuple[Mapping[str, Any], ...]
    sites: tuple[StateSite, ...]

    @property
    def everyone(self) -> tuple[Mapping[str, Any], ...]:
        """All adapters, by the numbers that results name them by; those that are out too."""
        return (*self.fitted, *self.added)

    def sources(self) -> list[Mapping[str, Any]]:
        """The adapters that are in, as a manifest lists them."""
        there = [s for s, here in zip(self.fitted, self.present, strict=True) if here]
        return sorted([*there, *self.added], key=lambda s: (s["adapter_id"], s["uri"]))


def _as_it_is(source: object, check: ValidatorFunctionWrapHandler) -> object:
    check(source)
    return source  # with all that another release may have written of it


if TYPE_CHECKING:
    _Listed = Mapping[str, Any]
else:
    _Listed = Annotated[Source, WrapValidator(_as_it_is)]


class _AboutSite(Form):
    plan: dict[str, Any]
    inertia: float


class _About(Form):
    version: Literal[1]  # STATE_VERSION
    fit: str
    carried: dict[str, Any]
    fitted: Many[_Listed]
    present: Many[bool]
    added: Many[_Listed]
    sites: Many[_AboutSite]


def first_state(
    fit: str,
    carried: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]],
    sites: Sequence[SiteResult],
) -> State:
    """The state that a full merge leaves.

    Args:
        fit: Its merge_id.
        carried: What the merged adapter took over of its sources' configurations.
        sources: Its adapters, as its manifest lists them, in plan order.
        sites: Its sites, solved as those of an updatable merge.
    """
    return State(
        fit=fit,
        carried=carried,
        fitted=tuple(sources),
        present=(True,) * len(sources),
        added=(),
        sites=tuple(StateSite(s.plan, s.inertia or 0.0, RunningSite.of(_fit(s))) for s in sites),
    )


def _fit(site: SiteResult) -> SiteFit:
    def whole(values: NDArray[Any] | None) -> torch.Tensor:
        return torch.from_numpy(np.array(values, np.int64))

    def real(values: NDArray[Any] | None) -> torch.Tensor:
        return torch.from_numpy(np.array(values, np.float64))

    alone = site.fit_alone
    if alone is None:
        alone = np.empty((0, site.a.shape[1] + site.b.shape[0]), np.float32)
    return SiteFit(
        sums=real(site.fit_sums),
        quanta=real(site.fit_quanta),
        alone=torch.from_numpy(np.array(alone)),
        totals=real(site.fit_totals),
        members=Members(
            whole(site.adapters),
            whole(site.ranks),
            whole(site.clusters),
            real(site.distances),
            real(site.fit_norms),
            real(site.fit_squares),
        ),
    )


def encode_state(state: State) -> bytes:
    """The bytes of a state's file; the same for the same state."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    for number, site in enumerate(state.sites):
        fit = site.running.fit
        arrays |= {
            f"{number}.sums": fit.sums.numpy(),
            f"{number}.quanta": fit.quanta.numpy(),
            f"{number}.alone": fit.alone.numpy(),
            f"{number}.totals": fit.totals.numpy(),
            f"{number}.changed": site.running.changed.numpy(),
            f"{number}.delta": site.running.delta.numpy(),
            **_columns(f"{number}.fitted", fit.members),
            **_columns(f"{number}.added", site.running.added),
        }
    about = {
        "version": STATE_VERSION,
        "fit": state.fit,
        "carried": dict(state.carried),
        "fitted": [dict(s) for s in state.fitted],
        "present": list(state.present),
        "added": [dict(s) for s in state.added],
        "sites": [{"plan": asdict(s.plan), "inertia": s.inertia} for s in state.sites],
    }
    text = json.dumps(about, sort_keys=True).encode()
    arrays[_ABOUT] = np.frombuffer(text, np.uint8)
    data: bytes = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    return data


def with_about(data: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """A state's file with another description of the same numbers.

    Args:
        data: The file.
        change: Gives the description again.
    """
    from safetensors.numpy import save

    arrays = _arrays(data, STATE_KEY)
    about = change(json.loads(arrays[_ABOUT].tobytes()))
    arrays[_ABOUT] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    changed: bytes = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    return changed


def _columns(prefix: str, members: Members) -> dict[str, NDArray[Any]]:
    return {
        f"{prefix}.adapters": members.adapters.numpy().astype(np.int32),
        f"{prefix}.ranks": members.ranks.numpy().astype(np.int32),
        f"{prefix}.clusters": members.clusters.numpy().astype(np.int32),
        f"{prefix}.distances": members.distances.numpy(),
        f"{prefix}.norms": members.norms.numpy(),
        f"{prefix}.squares": members.squares.numpy(),
    }


def decode_state(data: bytes, uri: str) -> State:
    """Reads a state's file.

    Args:
        data: Its bytes, which the manifest vouches for.
        uri: Where it is, for errors.

    Raises:
        MalformedAdapter: If it is none, or of a version that this release does not know.
    """

    def refused(faults: tuple[str, ...]) -> MalformedAdapter:
        problem = f"these are not running sums of version {STATE_VERSION}: {sentence_of(faults)}"
        return MalformedAdapter(uri, problem, "Merge again with --refit.")

    try:
        arrays = _arrays(data, uri)
        about = read_as(_About, json.loads(arrays[_ABOUT].tobytes()), refused)
        return State(
            fit=about.fit,
            carried=about.carried,
            fitted=about.fitted,
            present=about.present,
            added=about.added,
            sites=tuple(
                StateSite(_plan(each.plan), each.inertia, _running(arrays, number))
                for number, each in enumerate(about.sites)
            ),
        )
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise refused((str(error),)) from error


def _arrays(data: bytes, uri: str) -> dict[str, NDArray[Any]]:
    size = header_length(data[:LENGTH_BYTES], len(data), uri)
    spans, _ = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + size], len(data), uri)
    return arrays_of(data, spans)


def _plan(fields: dict[str, Any]) -> SitePlan:
    return SitePlan(**{**fields, "a_tail": tuple(fields["a_tail"])})


def _running(arrays: Mapping[str, NDArray[Any]], number: int) -> RunningSite:
    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{number}.{name}"].copy())

    def members(prefix: str) -> Members:
        return Members(
            tensor(f"{prefix}.adapters").long(),
            tensor(f"{prefix}.ranks").long(),
            tensor(f"{prefix}.clusters").long(),
            tensor(f"{prefix}.distances"),
            tensor(f"{prefix}.norms"),
            tensor(f"{prefix}.squares"),
        )

    fit = SiteFit(
        tensor("sums"), tensor("quanta"), tensor("alone"), tensor("totals"), members("fitted")
    )
    return RunningSite(fit, members("added"), tensor("changed"), tensor("delta"))
