"""The adapters available, taken and refused, and whether they belong together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from lego_ray.errors import (
    InvalidOption,
    LayoutMismatch,
    LegoRayError,
    NoAdaptersFound,
    SiteShapeMismatch,
    StrictRefusal,
)
from lego_ray.formats.diffusers_keys import COMPONENTS, component_of, module_of
from lego_ray.formats.dotted_output import COMFYUI
from lego_ray.formats.factors import some
from lego_ray.formats.layouts import WRITTEN_AS
from lego_ray.formats.module_names import parse_name
from lego_ray.formats.output_layouts import output_layout
from lego_ray.formats.peft_beside import beside_factors
from lego_ray.formats.record import AdapterRecord, Refused, sharing_sites
from lego_ray.formats.site_factors import SiteFactors
from lego_ray.planning.counts import Counts
from lego_ray.planning.trainer_runs import Doubt, PassedOver

# Blocks as the authors of HunyuanVideo call them, for which diffusers has other names.
_AUTHORS = re.compile(r"(?:double|single)_blocks\.")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a scan found.

    Attributes:
        adapters: Adapters that can be merged as far as their headers say, sorted by id, then URI.
        refused: Adapters that cannot, sorted by URI.
        passed_over: Checkpoints that were not taken, one entry per training run.
        doubts: Adapters that may be checkpoints of one run, all of which were taken.
        warnings: What else was passed over under the sources, one sentence each without its full stop.
        left_out: How many were left out as asked, before they were read.
        other_base: How many were left out because they are of another base model.
        not_chosen: How many of a library's zoo are not taken for this merge.
        zero_weight: How many were left out because they have weight 0.
    """

    adapters: tuple[AdapterRecord, ...]
    refused: tuple[Refused, ...]
    passed_over: tuple[PassedOver, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: int = 0
    other_base: int = 0
    not_chosen: int = 0
    zero_weight: int = 0

    @classmethod
    def of(cls, adapters: Iterable[AdapterRecord], refused: Iterable[Refused]) -> Inventory:
        """An inventory in its one order; an adapter reached twice counts once.

        Args:
            adapters: In any order.
            refused: Those that were turned down, in any order.
        """
        by_uri = {a.uri: a for a in adapters}
        return cls(
            adapters=tuple(sorted(by_uri.values(), key=lambda a: (a.adapter_id, a.uri))),
            refused=tuple(sorted({r.uri: r for r in refused}.values(), key=lambda r: r.uri)),
        )

    def quarantine(
        self,
        reasons: Mapping[str, LegoRayError],
        contents: Mapping[str, str] = MappingProxyType({}),
    ) -> Inventory:
        """The inventory without adapters whose weights turned out bad.

        Args:
            reasons: URI of each adapter, and what is wrong with it.
            contents: Hex sha256 over the tensors of each, by URI, where all were read.
        """
        here = {a.uri: a for a in self.adapters}
        refused = [
            Refused(
                uri,
                "quarantined",
                f"{type(e).__name__}: {e}",
                here[uri].adapter_id,
                here[uri].version,
                contents.get(uri, here[uri].content),
                here[uri].base_model,
                here[uri].n_bytes,
                here[uri].license,
                here[uri].tags,
            )
            for uri, e in reasons.items()
        ]
        left = Inventory.of(
            (a for a in self.adapters if a.uri not in reasons), (*self.refused, *refused)
        )
        return replace(self, adapters=left.adapters, refused=left.refused)

    @property
    def counts(self) -> Counts:
        """How many were found, and what became of them."""
        return Counts(
            usable=len(self.adapters),
            refused=len(self.refused),
            passed_over=sum(len(run.checkpoints) for run in self.passed_over),
            excluded=self.left_out,
            other_base=self.other_base,
            not_chosen=self.not_chosen,
            zero_weight=self.zero_weight,
        )

    def about(self, adapters: Iterable[AdapterRecord]) -> tuple[list[PassedOver], list[str]]:
        """What is to be said of the sources where only some adapters are merged.

        Args:
            adapters: Those that are.

        Returns:
            The training runs that one of them is of; and in words what was passed over under the
            sources, and the doubts that concern several of the adapters.
        """
        uris = {adapter.uri for adapter in adapters}
        passed_over = [each for each in self.passed_over if each.adapter in uris]
        doubts = (each.text for each in self.doubts if len(each.uris & uris) > 1)
        return passed_over, [*self.warnings, *doubts]


# Takes some of the adapters that a scan found.
Choose = Callable[[Inventory], Inventory]


def require_adapters(inventory: Inventory, sources: Iterable[str]) -> None:
    """Passes an inventory that has something to merge.

    Args:
        inventory: The inventory.
        sources: Where it was looked for, for the error.

    Raises:
        NoAdaptersFound: If there is nothing.
    """
    if inventory.adapters:
        return
    where = ", ".join(sources) or "sources"
    if inventory.refused:
        first = inventory.refused[0]
        raise NoAdaptersFound(
            where,
            f"all {len(inventory.refused)} adapters were refused; the first, {first.uri}, "
            f"because {first.reason.rstrip('.')}",
            "`lego-ray plan` lists every reason.",
        )
    if inventory.left_out:
        raise NoAdaptersFound(
            where,
            f"all that is there, {inventory.left_out} in number, is left out by --exclude",
            "Give patterns that match less.",
        )
    raise NoAdaptersFound(
        where,
        "no adapter_config.json was found there or below, and no single file of an image model",
        "Point at a directory, s3:// prefix or hf:// repository that holds adapters.",
    )


def check_strict(inventory: Inventory, strict: bool) -> None:
    """Passes an inventory without refused adapters, or any unless strict.

    Args:
        inventory: The inventory.
        strict: Whether a refused adapter fails the run.

    Raises:
        StrictRefusal: If strict and an adapter was refused.
    """
    if strict and inventory.refused:
        first = inventory.refused[0]
        raise StrictRefusal(
            first.uri,
            f"{len(inventory.refused)} adapters were refused and --strict was given; this one "
            f"because {first.reason.rstrip('.')}",
            "Fix or --exclude them, or run without --strict.",
        )


# What decides the layout of a merge whose adapters are in several layouts of image models, by its name.
MIXED_INTO: Mapping[str, str] = {
    "kohya": "if a name of a module has underscores for its dots",
    "diffusers": "if all names begin with a component, and none is a name of the model's authors",
    "comfyui": "otherwise",
}


def go_together(layouts: Collection[str]) -> bool:
    """Whether adapters can be in one merge, as far as their layouts say.

    Args:
        layouts: The layouts that merges of them alone are written in.
    """
    return len(set(layouts)) < 2 or all(output_layout(name).is_pipeline for name in layouts)


def agreed_format(adapters: Iterable[AdapterRecord]) -> str:
    """The layout that a merge is written in: the one its adapters came in; PEFT's for mlx's.

    Layouts of image models go together, as far as their names do: theirs is ComfyUI's until the names
    are known (see `named_layout`).

    Raises:
        LayoutMismatch: If they came in several that do not go together.
    """
    layouts: dict[str, str] = {}
    for adapter in adapters:
        layouts.setdefault(WRITTEN_AS[adapter.format], adapter.uri)
    if not go_together(layouts):
        listed = "; ".join(f"{name}'s, such as {uri}" for name, uri in sorted(layouts.items()))
        raise LayoutMismatch(
            sorted(layouts.items())[0][1],
            f"the adapters are in layouts that name their sites differently: {listed}",
            "Merge the language models' and the image models' adapters separately: --exclude "
            "'*.safetensors' leaves out the single files, which are image models'.",
        )
    return next(iter(layouts)) if len(layouts) == 1 else COMFYUI.name


def named_layout(adapters: Sequence[AdapterRecord], layout: str) -> str:
    """The layout that a merge of adapters in several is written in, by the names of its modules.

    Args:
        adapters: The adapters, each module under one name.
        layout: What `agreed_format` says.
    """
    if not output_layout(layout).is_pipeline:
        return layout
    names = {factors.site for alike in sharing_sites(adapters) for factors in alike[0].sites}
    is_flat = any(parse_name(name).is_flat for name in names)
    # diffusers converts such names, and not the settings of PEFT in the header that have them too.
    in_components = all(
        component_of(name) in COMPONENTS and not _AUTHORS.match(module_of(name)) for name in names
    )
    if len({WRITTEN_AS[adapter.format] for adapter in adapters}) == 1:
        fits = in_components if layout == "diffusers" else not is_flat or layout == "kohya"
        if fits:
            return layout
    if is_flat:
        return "kohya"
    return "diffusers" if in_components else COMFYUI.name


def as_convolutions(adapters: Sequence[AdapterRecord]) -> tuple[AdapterRecord, ...]:
    """The adapters, with a convolution as one where others have it stored as a linear layer.

    That is a 1x1 convolution of any of them, and one with any kernel in a LoHa or LoKr, which keeps its
    factors flat.

    Args:
        adapters: In any order.
    """
    tails: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    firsts = [first for first, *_ in sharing_sites(adapters)]
    for adapter in firsts:
        for factors in adapter.sites:
            if factors.kind == "conv":
                tails[factors.site].add(factors.a_tail)
    if not any(f.kind == "linear" and f.site in tails for a in firsts for f in a.sites):
        return tuple(adapters)
    return tuple(
        replace(a, sites=tuple(_as_convolution(f, tails.get(f.site, ())) for f in a.sites))
        for a in adapters
    )


def _as_convolution(factors: SiteFactors, tails: Iterable[tuple[int, ...]]) -> SiteFactors:
    """A linear site with the kernel that others have for it; any other as it is."""
    if factors.kind != "linear":
        return factors
    for tail in sorted(tails):
        if set(tail[1:]) == {1}:
            return replace(factors, kind="conv", kernel=tail[1:])
        if factors.expansion is not None and math.prod(tail) == factors.d_in:
            expansion = replace(factors.expansion, tail=tail)
            return replace(factors, kind="conv", expansion=expansion)
    return factors


class SiteShape(NamedTuple):
    """What adapters must agree on at a site.

    Attributes:
        kind: The site's kind.
        d_in: Inputs of the module.
        d_out: Outputs of the module.
        tail: Shape of the stored A without its rank.
        experts: How many the parameter has that the expert is of; 0 for other kinds.
    """

    kind: str
    d_in: int
    d_out: int
    tail: tuple[int, ...]
    experts: int

    def __str__(self) -> str:
        kind = f"one of {self.experts} experts" if self.experts else self.kind
        return f"{kind} with A (r, {self.d_in}) and B ({self.d_out}, r)"


def shape_of(factors: SiteFactors) -> SiteShape:
    """What adapters must agree on at a site."""
    experts = factors.packed.experts if factors.packed else 0
    return SiteShape(factors.kind, factors.d_in, factors.d_out, factors.a_tail, experts)


def check_shapes(adapters: Iterable[AdapterRecord]) -> None:
    """Checks that all adapters mean the same module by each site's name.

    Raises:
        SiteShapeMismatch: Naming the site, the shapes and an adapter of each.
    """
    seen: dict[str, dict[SiteShape, list[str]]] = defaultdict(dict)
    for alike in sharing_sites(adapters):
        uris = [adapter.uri for adapter in alike]
        for factors in alike[0].sites:
            seen[factors.site].setdefault(shape_of(factors), []).extend(uris)
    for site, shapes in sorted(seen.items()):
        if len(shapes) > 1:
            listed = "; ".join(
                f"{shape} in {len(uris)}, such as {uris[0]}" for shape, uris in shapes.items()
            )
            raise SiteShapeMismatch(
                site,
                f"the adapters disagree on this site's shape: {listed}",
                "They were trained on different models; leave some out with --exclude.",
            )


def keep_full_weights_of(inventory: Inventory, choice: str) -> Inventory:
    """Lets only the adapter named by `keep:NAME` keep weights that are not low-rank.

    Args:
        inventory: The inventory.
        choice: As `Recipe.full_weights`.

    Raises:
        NoAdaptersFound: If no adapter's directory has that name.
        InvalidOption: If several have it, and none is called so in full.
    """
    mode, _, name = choice.partition(":")
    if mode != "keep":
        return inventory
    where = f"--full-weights {choice}"
    every = [a.uri for a in inventory.adapters]
    uris = [uri for uri in every if _named(uri, name)]
    uris = uris or [uri for uri in every if _named(uri.removesuffix(_FILE_ENDING), name)]
    if name in uris:
        uris = [name]
    if not uris:
        named = (
            r
            for r in inventory.refused
            if _named(r.uri, name) or _named(r.uri.removesuffix(_FILE_ENDING), name)
        )
        refused = next(named, None)
        because = f"; {refused.uri} was refused: {refused.reason}" if refused else ""
        raise NoAdaptersFound(where, f"no adapter that is merged is called {name}{because}")
    if len(uris) > 1:
        problem = (
            f"{len(uris)} adapters are called {name}, such as {uris[0]} and {uris[1]}, and the "
            "weights of one can be kept"
        )
        raise InvalidOption(where, problem, f"Give the whole path: keep:{uris[0]}.")
    kept = tuple(a if a.uri == uris[0] else _without_kept(a, choice) for a in inventory.adapters)
    return replace(inventory, adapters=kept)


def _without_kept(adapter: AdapterRecord, choice: str) -> AdapterRecord:
    """An adapter without its full weights, with a note on those that add to the base model."""
    bare = replace(adapter, full_weights=(), differences=())
    added = [each.span.name for each in adapter.differences]
    added += beside_factors(span.name for span in adapter.full_weights)
    if not added:
        return bare
    return replace(bare, notes=(*bare.notes, f"left out by --full-weights {choice}: {some(added)}"))


# People call adapters that are single files by their names without it.
_FILE_ENDING = ".safetensors"


def _named(uri: str, name: str) -> bool:
    return uri == name or uri.rstrip("/").rsplit("/", 1)[-1] == name
