"""Adapters of PEFT whose update is computed with the base model: DoRA, PiSSA and OLoRA.

By the arithmetic of PEFT 0.21 (`tuners/lora/layer.py` and `dora.py`), with W the base model's weight and
s B A the stored pair's product:

- DoRA (arXiv 2402.09353): W becomes `m / |W + s B A| (W + s B A)`, row by row, m the stored magnitudes.
- PiSSA (arXiv 2404.02948) starts with `s B0 A0` the r largest singular terms of W, and OLoRA (arXiv
  2406.01775) with B0 the first r columns of Q and A0 the first r rows of R, `W = Q R`. Both subtract
  `s B0 A0` from W, so that the update is `s B A - s B0 A0`.
- CorDA (arXiv 2406.05223) and LoRA-GA (arXiv 2407.05000) do the same with a B0 and an A0 that depend on
  data, and `pissa_niter_N` with one that depends on chance. The adapter as it was saved before training
  has both factors, which is all that the update needs of any of these kinds.

What is here needs no base model: it says which sites are of these kinds, and what they need.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import MalformedAdapter, UnsupportedAdapter
from lego_ray.formats.factors import RESAVE, check_dtype, some
from lego_ray.formats.kinds import NAMES as KINDS
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.peft_keys import PREFIX
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import BaseWeight, Derived, SiteFactors, TensorSpan

NAMES: Mapping[str, str] = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
}
# Those whose initial factors the base model tells.
_TOLD = ("pissa", "olora")
# Folders of an adapter that have it as it was before training, and those with the same adapter again, as
# LLaMA-Factory calls them and PEFT's documents do.
INITIAL_FOLDERS = (*(f"{name}_init" for name in (*NAMES, "loraga")), "initial", "init")
COPIES = tuple(f"{name}_{what}" for name in NAMES for what in ("backup", "converted"))
_MAGNITUDE = re.compile(r"(?P<site>.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?")
_MERGE = (
    "Merge it into its base model (PEFT: merge_and_unload) and extract a plain LoRA from the "
    "difference, or leave it out with --exclude."
)


@dataclass(frozen=True, slots=True)
class BaseKinds:
    """Which of the kinds an adapter is of.

    Attributes:
        is_dora: Whether it has magnitudes.
        init: One of `NAMES`, or empty.
        initial: The adapter as it was saved before training, or None.
    """

    is_dora: bool
    init: str
    initial: AdapterRecord | None = None

    @classmethod
    def of(
        cls,
        fields: Mapping[str, object],
        *,
        with_base: bool = True,
        initial: AdapterRecord | None = None,
    ) -> BaseKinds | None:
        """Reads them from a configuration; None if it is of none, or what it needs is not there.

        Args:
            fields: The configuration, parsed.
            with_base: Whether there is a base model.
            initial: The adapter as it was saved before training, or None.
        """
        if fields.get("peft_type") != "LORA":
            return None
        is_dora, init = bool(fields.get("use_dora")), changing_init(fields)
        is_told = initial is not None or str(fields.get("init_lora_weights")).lower() in _TOLD
        if (is_dora and not with_base) or (init and not is_told):
            return None
        if not with_base and not (init and initial):
            return None
        return cls(is_dora, init, initial if init else None) if is_dora or init else None

    def as_lora(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The configuration with what a plain LoRA has of it.

        Args:
            fields: The configuration, parsed.
        """
        own = {"use_dora", "init_lora_weights"} if self.init else {"use_dora"}
        return {name: value for name, value in fields.items() if name not in own}

    def sites(
        self,
        sites: Iterable[SiteFactors],
        magnitudes: Mapping[str, TensorSpan],
        settings: PeftConfig,
        where: str,
    ) -> tuple[SiteFactors, ...]:
        """The sites, those of these kinds marked as computed with the base model.

        Args:
            sites: What they would be as plain LoRA.
            magnitudes: DoRA's, by site.
            settings: The adapter's configuration.
            where: The weights file, for the error.

        Raises:
            MalformedAdapter: If a site has no magnitudes, or these do not fit; or they have no site.
            UnsupportedAdapter: If PEFT does not have the kind for such a module.
        """
        sites = tuple(sites)
        stray = sorted(magnitudes.keys() - {site.site for site in sites})
        if stray:
            problem = f"it has magnitudes of {some(stray)}, and no factors"
            raise MalformedAdapter(where, problem, RESAVE)
        return tuple(self._site(s, magnitudes.get(s.site), settings, where) for s in sites)

    def _site(
        self,
        site: SiteFactors,
        magnitude: TensorSpan | None,
        settings: PeftConfig,
        where: str,
    ) -> SiteFactors:
        # PEFT starts the pairs of embeddings as usual, whatever it is asked for.
        init = "" if site.kind == "embedding" else self.init
        is_turned = init == "olora" and settings.fan_in_fan_out and self.initial is None
        if init and (site.kind != "linear" or is_turned):
            layer = (
                "a layer that stores its weight transposed" if site.kind == "linear" else site.kind
            )
            problem = f"{site.site} is a {NAMES[init]} of {layer}, which PEFT does not have"
            raise UnsupportedAdapter(where, problem, _MERGE)
        if self.is_dora:
            _check_magnitude(site, magnitude, where)
        elif not init:
            return site
        derived = Derived(
            init,
            site.rank,
            site.scaling,
            magnitude if self.is_dora else None,
            initial=_factors_of(self.initial, site) if init and self.initial else (),
        )
        wanted = site.rank if self.is_dora else 2 * site.rank
        rank = min(wanted, site.d_in, site.d_out)
        return replace(site, rank=rank, scaling=1.0, derived=derived)


def changing_init(fields: Mapping[str, object]) -> str:
    """Which of `NAMES` training began with, by a configuration; empty for none."""
    value = fields.get("init_lora_weights")
    name = value.lower() if isinstance(value, str) else ""
    return next((each for each in NAMES if name.startswith(each)), "")


def _factors_of(initial: AdapterRecord, site: SiteFactors) -> tuple[BaseWeight, ...]:
    """A and B of a site as they were before training."""
    found = next((each for each in initial.sites if each.site == site.site), None)
    problem = f"it has no factors of {site.site}, which was trained from some"
    if found is not None:
        shapes = (found.a.shape, found.b.shape)
        problem = (
            f"{site.site} has factors of shape {list(shapes[0])} and {list(shapes[1])} there, and of "
            f"{list(site.a.shape)} and {list(site.b.shape)} after training"
        )
    if found is None or shapes != (site.a.shape, site.b.shape):
        hint = f"Put the adapter as it was saved before training there, or delete {initial.uri}."
        raise MalformedAdapter(initial.uri, problem, hint)
    return tuple(
        BaseWeight(
            initial.uri,
            initial.revision,
            initial.weights_key,
            initial.version,
            span,
            changed_at=initial.changed_at[0],
        )
        for span in (found.a, found.b)
    )


def check_magnitudes(names: Iterable[str], where: str, *, is_dora: bool) -> None:
    """Refuses magnitudes of DoRA that PEFT does not load.

    It loads them only if the configuration has `use_dora`, and never under LyCORIS's name.

    Args:
        names: Tensor keys, without `base_model.model.`.
        where: The weights file, for the error.
        is_dora: Whether the configuration has `use_dora`.

    Raises:
        UnsupportedAdapter: If there are some, naming the first.
    """
    for name in names:
        if parse_magnitude(name) and not is_dora:
            problem = f"{name} is a magnitude of DoRA, and the configuration does not say use_dora"
            hint = (
                "If it was trained with DoRA, set use_dora to true in a copy of its "
                "adapter_config.json, and give its base model with --base; else delete the magnitudes."
            )
            raise UnsupportedAdapter(where, problem, hint)
        if name.endswith(".dora_scale"):
            problem = f"{name} is LyCORIS's name of DoRA's magnitudes, which PEFT does not load"
            hint = (
                "If LyCORIS, kohya's or OneTrainer saved the file, give it in a folder without an "
                "adapter_config.json, and its base model with --base."
            )
            raise UnsupportedAdapter(where, problem, hint)


def parse_magnitude(key: str) -> str | None:
    """The site whose DoRA magnitudes a key is of; None for any other key."""
    found = _MAGNITUDE.fullmatch(key.removeprefix(PREFIX))
    return found["site"] if found else None


def _check_magnitude(site: SiteFactors, magnitude: TensorSpan | None, where: str) -> None:
    if magnitude is None:
        problem = f"{site.site} has no lora_magnitude_vector, which a DoRA has"
        raise MalformedAdapter(where, problem, RESAVE)
    check_dtype(magnitude, where)
    if site.kind not in ("linear", "embedding", "conv"):
        problem = f"{site.site} is a DoRA of a {site.kind}, which PEFT does not have"
        raise UnsupportedAdapter(where, problem, _MERGE)
    if math.prod(magnitude.shape) != site.d_out:
        problem = (
            f"{magnitude.name} has shape {list(magnitude.shape)}, and {site.site} has {site.d_out} "
            "outputs"
        )
        raise MalformedAdapter(where, problem, RESAVE)


def note_of(sites: Sequence[SiteFactors]) -> tuple[str, ...]:
    """What to tell of sites that are computed with the base model, without full stops."""
    found: dict[tuple[str, bool], list[int]] = {}
    for site in sites:
        if site.derived is not None:
            kind = " and ".join(_names(site))
            found.setdefault((kind, site.derived.is_exact), []).append(site.rank)
    notes = []
    for (kind, is_exact), ranks in sorted(found.items()):
        low, high = min(ranks), max(ranks)
        modules = f"{len(ranks)} modules are" if len(ranks) > 1 else "1 module is"
        rank = str(low) if low == high else f"{low} to {high}"
        what = (
            "that is the same update of the base model"
            if is_exact
            else "nearest to what it does to the base model"
        )
        notes.append(f"{modules} {kind}: merged as the plain LoRA of rank {rank} {what}")
    return tuple(notes)


def _names(site: SiteFactors) -> Iterable[str]:
    if site.expansion is not None:
        yield KINDS[site.expansion.form]
    if site.derived is not None and site.derived.init:
        yield NAMES[site.derived.init]
    if site.derived is not None and site.derived.magnitude is not None:
        yield "DoRA"
