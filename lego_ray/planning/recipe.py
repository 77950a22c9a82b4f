"""What the user asked for: one merge, in full, as a frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lego_ray.errors import BadInput, InvalidOption, MalformedAdapter, redacted
from lego_ray.methods.base import MergeMethod, PoolWork
from lego_ray.methods.measure import Measure
from lego_ray.methods.names import DEFAULT_METHOD, as_recorded
from lego_ray.methods.registry import method_of
from lego_ray.methods.scaling import checked_output_scale
from lego_ray.methods.spectrum import checked_spectrum
from lego_ray.methods.updatable import check_updatable
from lego_ray.options import keywords_of
from lego_ray.planning.options import AUTO, FULL_WEIGHTS, ResultOptions
from lego_ray.planning.rank_options import check_rank
from lego_ray.planning.scales import checked_site_scales
from lego_ray.planning.weights import checked_weights

# Fields that say where the others come from, and are part of no record and no digest.
NOT_RECORDED = ("by_default", "notes")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One merge, in full; checked when it is made.

    Attributes:
        name: What the merged adapter is called in the catalog and its model card.
        rank: k, the rank of the merged adapter, the largest if sites differ; None while it is open.
        method: Name of the merge method.
        options: The method's options, as `names.as_recorded` has them; those left out take its
            defaults, and are recorded.
        seed: Fixes everything random.
        dtype: Element type written: `F32`, `BF16`, `F16`, or `majority` for what most parameters of
            the sources have. Arithmetic is float32 and wider whatever it is.
        base_model: Base model the merged adapter names, whatever the sources say; empty to take the
            one name the sources agree on.
        full_weights: What to do with `modules_to_save`, biases and differences of weights, which are not
            low-rank: `refuse` the adapter, `drop` them, or `keep:NAME` those of the one adapter whose
            directory or file is NAME; or of differences the `sum` or the `average`.
        exclude: Glob patterns; adapters whose path matches one are left out.
        compact: Write true ranks with `rank_pattern` instead of zero-padding to rank k.
        weights: Factor on the update of adapters, by name, glob pattern or URI; see
            `weights.weights_of`. Those not meant have 1.
        spectrum: Power of the merged update's singular values at each site, after all that the method
            does, or `adaptive`. See `spectrum.with_spectrum`.
        output_scale: Factor on the merged update, after all that the method does and the spectrum; or
            the rule that gives each site its own, `source-norm`, `sum-fit` or `adaptive`, or a rule
            times a factor, such as `sum-fit*0.5`. See `scaling.scaled`.
        site_scales: Additional factor on the merged update of sites, by name or glob pattern; see
            `scales.site_scales_of`.
        rank_error: Largest relative error of the nearest adapter of rank k to the sum of the updates,
            by which k is or was chosen; None if it is not chosen by its error.
        rank_budget: Rank that has, at every site, as many parameters as the ranks that are or were
            chosen site by site; None if they are not. It implies `compact`.
        ranks: Merged rank of each site, where that was chosen; `rank` at those not named.
        updatable: Keep running sums beside the merge, from which `update` makes later versions. They
            change no byte of the adapter.
        parent: The merge_id of the merge that this is a later version of; empty for none.
        layout: The layout to write, or `sources` for that of the adapters.
        only_base: Name or glob pattern of the base model whose adapters alone are taken; empty for all.
        by_default: Whether how to merge was not said, so that it is what the default preset settles. It
            is not recorded, and neither are notes.
        notes: What to tell the user of that choice, one sentence each without its full stop.
        base: Where the base model is, for adapters whose update is computed with it; empty for nowhere.
    """

    name: str
    rank: int | None
    method: str = DEFAULT_METHOD
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "majority"
    base_model: str = ""
    full_weights: str = "refuse"
    exclude: tuple[str, ...] = ()
    compact: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    output_scale: float | str = 1.0
    site_scales: Mapping[str, float] = field(default_factory=dict)
    rank_error: float | None = None
    rank_budget: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    updatable: bool = False
    parent: str = ""
    layout: str = "sources"
    base: str = ""
    spectrum: float | str = 1.0
    only_base: str = ""
    by_default: bool = field(default=False, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_rank(self.rank, self.rank_error, self.rank_budget, self.ranks)
        object.__setattr__(self, "compact", self.compact or self.rank_budget is not None)
        if not self.name or "/" in self.name or not self.name.isprintable():
            problem = f"{self.name!r} is empty, or holds a slash or what cannot be printed"
            raise InvalidOption("--name", problem)
        for option in ("seed", "dtype", "layout"):
            keywords_of(ResultOptions)[option].check(getattr(self, option))
        if redacted(self.base_model) != self.base_model:
            problem = f"{self.base_model} has credentials in it, which would be published"
            raise InvalidOption("--base-model", problem, "Give the name alone.")
        if redacted(self.base) != self.base:
            problem = f"{self.base} has credentials in it, which would be published"
            raise InvalidOption("--base", problem, "Give them in the environment.")
        mode, _, kept = self.full_weights.partition(":")
        if not (self.full_weights in FULL_WEIGHTS or (mode == "keep" and kept)):
            listed = f"{', '.join(FULL_WEIGHTS)} or keep:NAME"
            raise InvalidOption("--full-weights", f"{self.full_weights!r} is not {listed}")
        object.__setattr__(self, "weights", checked_weights(self.weights))
        object.__setattr__(self, "output_scale", checked_output_scale(self.output_scale))
        object.__setattr__(self, "spectrum", checked_spectrum(self.spectrum))
        object.__setattr__(self, "site_scales", checked_site_scales(self.site_scales))
        made = self.merge_method()
        object.__setattr__(self, "options", as_recorded(asdict(made)))  # type: ignore[call-overload]
        if self.updatable:
            check_updatable(made, self.output_scale, self.full_weights, self.spectrum)

    @property
    def is_open(self) -> bool:
        """Whether ranks are still to be chosen, so that all that can be run is measuring."""
        return self.rank is None

    @property
    def rank_asked(self) -> int | str:
        """The rank, or in words how it is to be chosen."""
        if self.rank is not None:
            return self.rank
        return AUTO if self.rank_budget is None else f"budget {self.rank_budget}"

    def rank_of(self, site: str) -> int:
        """Merged rank of a site; 0 while it is open."""
        return self.ranks.get(site, self.rank or 0)

    def merge_method(self) -> MergeMethod:
        """The merge method with its options."""
        return method_of(self.method, self.options)

    def work(self) -> PoolWork:
        """What is done to the sites' pools: the method's work, or measuring while ranks are open."""
        return Measure() if self.is_open else self.merge_method()

    def as_json(self) -> dict[str, Any]:
        """Every recorded field as JSON; layout, base, spectrum and only_base only if asked for."""
        fields = {**asdict(self), "exclude": list(self.exclude)}
        for name in NOT_RECORDED:
            del fields[name]
        if self.layout == "sources":  # so that records and digests are those of earlier releases
            del fields["layout"]
        if not self.base:
            del fields["base"]
        if self.spectrum == 1:
            del fields["spectrum"]
        if not self.only_base:
            del fields["only_base"]
        return fields


def recipe_from(fields: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `as_json` gave these fields of.

    Args:
        fields: Parsed JSON, which may come from anyone.
        where: What they are of, for the error.

    Raises:
        MalformedAdapter: If they make no recipe.
    """
    try:
        excluded = fields.get("exclude", ())
        if not isinstance(excluded, list | tuple) or not all(isinstance(e, str) for e in excluded):
            raise TypeError("exclude is not a list of patterns")
        if unknown := sorted(fields.keys() & {*NOT_RECORDED}):
            raise TypeError(f"{unknown[0]} is not a field of a recipe")
        return Recipe(**{**fields, "exclude": tuple(excluded)})
    except (BadInput, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MalformedAdapter(
            where, f"its recipe is none of this release's: {str(error)[:200]}", "Merge it again."
        ) from error


def canonical_json(value: object) -> str:
    """One text for one value: keys sorted, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: object) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def site_seed(seed: int, site: str) -> int:
    """Seed of one site's generator: from (seed, site name), never from scheduling.

    Args:
        seed: The recipe's.
        site: The site's name.

    Returns:
        0 to 2^63 - 1.
    """
    mixed = hashlib.sha256(f"{seed}\n{site}".encode()).digest()
    return int.from_bytes(mixed[:8], "big") >> 1
