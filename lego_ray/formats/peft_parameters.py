"""Parameters that PEFT adapts by their own names (`target_parameters`), and where files have them.

PEFT wraps the module that has the parameter, and the file names that module, not the parameter. Where
several parameters of one module are adapted the wrappers are nested: the parameter that the module
defines first is the innermost, with a `base_layer` in its key for each wrapper around it. A parameter
with three axes holds one matrix an expert, and the factors of all experts are in one pair of tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from lego_ray.errors import MalformedAdapter, ShapeMismatch
from lego_ray.formats.factors import Pair
from lego_ray.formats.site_factors import SiteKind

# What PEFT calls the module that it wraps, inside of the wrapper.
BASE_LAYER = "base_layer"

# In an `nn.MultiheadAttention`, the one module that PEFT adapts inside of another that it wraps.
_INNER = f".{BASE_LAYER}.out_proj"

# Parameters of one module in the order in which the models of transformers define them.
_DEFINED = (
    *("gate_up_proj", "gate_up_proj_bias", "gate_proj", "up_proj", "down_proj", "down_proj_bias"),
    *("w1", "v1", "w2"),
)

# The release of PEFT whose order of the two factors is written: see `peft_experts`.
WRITTEN_FOR = "0.19.1"


@dataclass(frozen=True, slots=True)
class Stored:
    """A pair of tensors in a file.

    Attributes:
        name: The module, or the parameter with its module, as PEFT's configuration names it.
        path: What its keys begin with, without PEFT's prefix.
        sites: The site whose factors they are; or those of all experts, in order.
        is_parameter: Whether it is targeted as a parameter.
    """

    name: str
    path: str
    sites: tuple[str, ...]
    is_parameter: bool


def depths(parameters: Collection[str]) -> dict[str, int] | None:
    """How many wrappers are around that of each parameter of one module.

    Args:
        parameters: Their names; all that an adapter targets in the module.

    Returns:
        By name; None if the order of the parameters in the module is not known.
    """
    if len(parameters) == 1:
        return dict.fromkeys(parameters, 0)
    if any(name not in _DEFINED for name in parameters):
        return None
    outermost_first = sorted(parameters, key=_DEFINED.index, reverse=True)
    return {name: depth for depth, name in enumerate(outermost_first)}


def split_base_layers(path: str) -> tuple[str, int]:
    """A path without the `base_layer` at its end, and how many there were."""
    depth = 0
    while path.endswith(f".{BASE_LAYER}"):
        path = path.removesuffix(f".{BASE_LAYER}")
        depth += 1
    return path, depth


def without_base_layers(pairs: Collection[Pair], where: str) -> tuple[list[Pair], str]:
    """Pairs of modules by the modules' own names, where the model had an adapter before the training.

    PEFT then wraps the wrapper of that adapter's module, and drops such a pair when it loads the file
    into a model without.

    Args:
        pairs: Of modules, not of parameters.
        where: The weights file, for the error.

    Returns:
        The pairs, and a note on those that were renamed; empty if none was.

    Raises:
        MalformedAdapter: If two pairs are of one module.
    """
    named = {pair.site for pair in pairs}
    found: dict[str, Pair] = {}
    renamed = []
    for pair in pairs:
        module, depth = split_base_layers(pair.site)
        if module in found or (depth and module in named):
            problem = f"{module} has two pairs of factors, one of them as {pair.site}"
            hint = (
                "It holds two adapters. Save the one that is wanted from a model without the other."
            )
            raise MalformedAdapter(where, problem, hint)
        found[module] = replace(pair, site=module)
        if depth:
            renamed.append(pair.site)
    if not renamed:
        return list(pairs), ""
    return list(found.values()), (
        f"{BASE_LAYER} was left out of the names of {len(renamed)} modules, such as {renamed[0]}: the "
        "adapter was trained on a model that had another, and PEFT loads it into no model without that"
    )


def ruled_by(module: str) -> str:
    """The path of the module whose rank and alpha PEFT gives to a module: its own, in general.

    PEFT adapts `out_proj` of an `nn.MultiheadAttention` together with it, at the same rank and alpha
    (`peft.tuners.lora.layer.MultiheadAttention`), and looks up no pattern for it.

    Args:
        module: The module's path.
    """
    return module.removesuffix(_INNER)


def parameter_of(site: str, kind: SiteKind) -> str:
    """The path that PEFT's patterns are matched with: that of an expert without its number.

    Args:
        site: Name of the site.
        kind: Its kind.
    """
    return site.rpartition(".")[0] if kind == "expert" else site


def stored_pairs(sites: Mapping[str, SiteKind]) -> list[Stored]:
    """The pairs of tensors that a file of these sites has, sorted by name.

    Args:
        sites: The kind of each.

    Raises:
        ShapeMismatch: If an expert is missing, or the order of a module's parameters is not known.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    modules: dict[str, set[str]] = defaultdict(set)
    for site, kind in sites.items():
        name = parameter_of(site, kind)
        groups[name].append(site)
        if kind in ("parameter", "expert"):
            module, _, parameter = name.rpartition(".")
            modules[module].add(parameter)
    nesting = {module: _known_depths(module, names) for module, names in modules.items()}
    out = []
    for name, mine in sorted(groups.items()):
        kind = sites[mine[0]]
        module, _, parameter = name.rpartition(".")
        is_parameter = kind in ("parameter", "expert")
        depth = nesting[module][parameter] if is_parameter else 0
        path = ".".join((module, *(BASE_LAYER,) * depth)) if is_parameter else name
        ordered = _in_order(name, mine) if kind == "expert" else tuple(mine)
        out.append(Stored(name, path, ordered, is_parameter))
    return out


def _known_depths(module: str, names: Collection[str]) -> dict[str, int]:
    found = depths(names)
    if found is None:
        problem = f"the order of its parameters {', '.join(sorted(names))} is not known"
        raise ShapeMismatch(module, problem, "Merge the adapters that target one of them alone.")
    return found


def _in_order(name: str, sites: Collection[str]) -> tuple[str, ...]:
    ordered = sorted(sites, key=lambda site: int(site.rpartition(".")[2]))
    if ordered != [f"{name}.{number}" for number in range(len(ordered))]:
        raise ShapeMismatch(name, f"{len(ordered)} experts were solved, and they are not the first")
    return tuple(ordered)
