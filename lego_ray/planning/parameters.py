"""Adapters that target a parameter by its name beside those that target the module it is in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.peft_parameters import parameter_of
from lego_ray.formats.record import AdapterRecord, sharing_sites
from lego_ray.formats.site_factors import SiteFactors

_WEIGHT = ".weight"


def agreed_parameters(adapters: Sequence[AdapterRecord]) -> tuple[AdapterRecord, ...]:
    """The adapters, each weight under one name: as a parameter where one of them has it so.

    PEFT gives both the same keys. A parameter can be of a module that is not a linear layer, such as a
    router, and only `target_parameters` reaches it there.

    Args:
        adapters: The adapters of a merge.

    Returns:
        The same in their order.

    Raises:
        LayoutMismatch: If some adapt the experts of a layer as one parameter and others as modules.
    """
    firsts = [first for first, *_ in sharing_sites(adapters)]
    parameters = {
        factors.site
        for adapter in firsts
        for factors in adapter.sites
        if factors.kind == "parameter" and factors.site.endswith(_WEIGHT)
    }
    _check_experts(firsts)
    return (
        tuple(_renamed(adapter, parameters) for adapter in adapters)
        if parameters
        else (tuple(adapters))
    )


def _renamed(adapter: AdapterRecord, parameters: set[str]) -> AdapterRecord:
    def of(factors: SiteFactors) -> SiteFactors:
        name = f"{factors.site}{_WEIGHT}"
        if factors.kind == "linear" and name in parameters:
            return replace(factors, site=name, kind="parameter")
        return factors

    return replace(adapter, sites=tuple(sorted(map(of, adapter.sites), key=lambda f: f.site)))


def _check_experts(adapters: Iterable[AdapterRecord]) -> None:
    """Passes adapters none of which has modules inside of what another adapts as a parameter.

    PEFT packs the experts of a whole file or none, so one layer decides for all.
    """
    packed: dict[str, tuple[str, str]] = {}
    for adapter in adapters:
        for factors in adapter.sites:
            if factors.kind in ("parameter", "expert"):
                name = parameter_of(factors.site, factors.kind)
                packed.setdefault(_block(name.split(".")[:-1]), (name, adapter.uri))
    for adapter in adapters if packed else ():
        for factors in adapter.sites:
            if factors.kind in ("parameter", "expert"):
                continue
            parts = factors.site.split(".")
            for end in range(len(parts) - 1, 0, -1):
                if found := packed.get(_block(parts[:end])):
                    problem = (
                        f"the adapters have the experts of one model in two ways: {found[0]} as one "
                        f"parameter in {found[1]}; {factors.site} as a module in {adapter.uri}"
                    )
                    hint = (
                        "Load the latter with PEFT 0.19.1 or later on transformers 5, which packs "
                        "them, and save them again; or merge them separately, with --exclude."
                    )
                    raise LayoutMismatch(adapter.uri, problem, hint)


def _block(parts: Sequence[str]) -> str:
    """The name of a block in every layer, as transformers 5 has it; 4 called Mixtral's by another."""
    return ".".join(
        "*" if part.isdigit() else "mlp" if part == "block_sparse_moe" else part for part in parts
    )
