"""PEFT's rules: what `PeftModel.from_pretrained` raises at, and what it drops or scales without a word.

It builds the modules that the configuration names, then loads tensors by key. A tensor without a module
is dropped in silence; a module without its tensor starts from nothing; a shape that differs raises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from lego_ray.errors import AdapterRefused
from lego_ray.formats.peft_beside import BIAS, TOKENS, beside_factors, site_of_bias
from lego_ray.formats.peft_carried import HEADS, SAVED_FOR_TASK, holds
from lego_ray.formats.peft_config import PeftConfig, config_from
from lego_ray.formats.peft_keys import PREFIX, is_embedding_weight, parse_factor
from lego_ray.formats.peft_parameters import BASE_LAYER, depths, split_base_layers
from lego_ray.formats.readers.outgoing import Finding, Outgoing
from lego_ray.formats.refusals import DROPPABLE, check_config

_DROP = (
    "Leave the head, bias or embedding out with --full-weights drop, or leave out with --exclude the "
    "adapters that adapted it."
)
_AGAIN = "Merge again from the sources; an earlier version may have written it."


@dataclass(frozen=True, slots=True)
class _Site:
    """Shapes of a site's factors, as stored; None for one that is not there."""

    is_embedding: bool
    a: tuple[int, ...] | None = None
    b: tuple[int, ...] | None = None

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that the adapted weight itself may have."""
        if self.a is None or self.b is None:
            return ()
        d_out, d_in = self.b[0], self.a[1:]
        if self.is_embedding:
            return ((*d_in, d_out),)
        return ((d_out, *d_in), (*d_in, d_out))  # the other way about with fan_in_fan_out


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What PEFT makes of an output.

    Args:
        outgoing: It.
    """
    try:
        check_config(outgoing.config, outgoing.where, without=DROPPABLE)
        config = config_from(outgoing.config, outgoing.where)
    except AdapterRefused as error:
        yield Finding(f"PEFT does not apply it as B A: {error.problem}", True, error.hint)
        return
    sites: dict[str, _Site] = {}
    whole: list[str] = []
    for key, shape in outgoing.shapes.items():
        if 0 in shape:
            yield Finding(f"{key} has shape {list(shape)}, and PEFT raises at it", True, _AGAIN)
        if not key.startswith(PREFIX):
            yield Finding(f"{key} lacks the prefix {PREFIX}, and PEFT drops it", True, _AGAIN)
        factor = parse_factor(key)
        if factor is None:
            whole.append(key)
            continue
        if factor.adapter:
            yield Finding(f"{key} names an adapter, and PEFT drops it", True, _AGAIN)
        before = sites.get(factor.site, _Site(factor.is_embedding))
        mine = (shape, before.b) if factor.half == "A" else (before.a, shape)
        sites[factor.site] = _Site(factor.is_embedding, *mine)
    parameters = _parameters_of(outgoing.config, sites)
    beside = set(beside_factors(whole))
    whole = [key for key in whole if key not in beside]
    yield from _of_beside(outgoing, sites, parameters, beside)
    yield from _of_sites(outgoing, config, sites, parameters)
    yield from _of_whole(outgoing, config, sites, whole)
    yield from _of_heads(config, whole)


def _parameters_of(config: Mapping[str, object], sites: Collection[str]) -> dict[str, str]:
    """The parameter that each path is of, where the configuration targets parameters by whole paths."""
    listed = config.get("target_parameters")
    modules: dict[str, list[str]] = {}
    for target in listed if isinstance(listed, list) else []:
        module, _, name = str(target).rpartition(".")
        modules.setdefault(module, []).append(name)
    found = {}
    for path in sites:
        module, depth = split_base_layers(path)
        nesting = depths(modules.get(module, ())) or {}
        for name, at in nesting.items():
            if at == depth:
                found[path] = f"{module}.{name}"
    return found


def _of_beside(
    outgoing: Outgoing,
    sites: Mapping[str, _Site],
    parameters: Collection[str],
    beside: Collection[str],
) -> Iterator[Finding]:
    """Biases of B and rows of tokens, which PEFT makes by two fields of the configuration."""
    has_bias = bool(outgoing.config.get(BIAS))
    for key in sorted(beside):
        path = site_of_bias(key)
        if not path:
            embedding = key.removeprefix(PREFIX).partition(".token_adapter")[0]
            embedding = embedding.partition(".trainable_tokens_")[0]
            if not outgoing.config.get(TOKENS):
                yield Finding(f"{TOKENS} is not set, and PEFT drops {key}", True, _AGAIN)
            if embedding in sites:
                problem = f"{embedding} is adapted and rows of it are kept, which PEFT refuses"
                yield Finding(problem, True, _DROP)
            continue
        b = sites[path].b if path in sites else None
        if not has_bias or b is None:
            yield Finding(f"PEFT drops {key}: its module has no bias of B", True, _AGAIN)
        elif outgoing.shapes[key] != b[:1]:
            problem = f"{key} has shape {list(outgoing.shapes[key])}, expected {list(b[:1])}"
            yield Finding(f"{problem}; PEFT raises", True, _AGAIN)
    if has_bias:
        other = next((p for p, s in sites.items() if s.is_embedding or p in parameters), None)
        if other is not None:
            problem = (
                f"{other} is adapted, and PEFT takes no {BIAS} with an embedding or a parameter"
            )
            yield Finding(problem, True, _DROP)
        yield Finding(f"PEFT merges {BIAS} only into base layers that have a bias of their own")


def _of_sites(
    outgoing: Outgoing,
    config: PeftConfig,
    sites: Mapping[str, _Site],
    parameters: Mapping[str, str],
) -> Iterator[Finding]:
    listed = outgoing.config.get("target_modules")
    # Where it is not a list it is an expression, and what a base model has of it is not known here.
    targets = frozenset(listed) if isinstance(listed, list) else None
    for path, site in sites.items():
        name = parameters.get(path, path)
        if site.a is None or site.b is None:
            half = "B" if site.b is None else "A"
            yield Finding(f"{name} has no factor {half}; PEFT starts it from nothing", True, _AGAIN)
            continue
        rank, wanted = site.a[0], config.rank_of(name)
        # A parameter has this rank for each expert, and the base model says how many there are.
        stored = wanted if path not in parameters else rank - rank % wanted
        if (rank, site.b[1]) != (stored, stored):
            problem = f"{name} has rank {rank} and its configuration {wanted}; PEFT raises"
            yield Finding(problem, True, _AGAIN)
        elif config.scaling_of(name) != 1:
            problem = f"PEFT multiplies {name} by {config.scaling_of(name):g}; it is stored for 1"
            yield Finding(problem, True, _AGAIN)
        if path not in parameters and not _is_targeted(name, targets):
            problem = f"target_modules does not name {name}, and PEFT drops its factors"
            yield Finding(problem, True, _AGAIN)
        saved = next((m for m in config.modules_to_save if _guards(m, path)), None)
        if saved is not None:
            problem = (
                f"{name} is adapted and {saved} is saved whole; PEFT drops the factors of a module "
                "that it replaces"
            )
            yield Finding(problem, True, _DROP)


def _of_whole(
    outgoing: Outgoing, config: PeftConfig, sites: Mapping[str, _Site], whole: Collection[str]
) -> Iterator[Finding]:
    for key in whole:
        module, _, parameter = key.removeprefix(PREFIX).rpartition(".")
        inner = module.removesuffix(f".{BASE_LAYER}")
        is_inner = inner != module
        if (inner in sites) != is_inner:
            lacks = "is not" if inner in sites else "is"
            problem = f"{key} {lacks} under {BASE_LAYER}, and PEFT drops it"
            yield Finding(problem, True, _AGAIN)
        elif is_inner and parameter == "weight":
            shape = outgoing.shapes[key]
            possible = sites[inner].weights
            if possible and shape not in possible:
                problem = (
                    f"{key} has shape {list(shape)}, and the factors there are for "
                    f"{list(possible[0])}: one of the adapters resized it"
                )
                yield Finding(problem, True, _DROP)
        elif not is_inner and not _is_found(key, config):
            problem = f"{key} is of no module that PEFT loads from an adapter"
            yield Finding(problem, True, _AGAIN)
        if is_embedding_weight(key.replace(f".{BASE_LAYER}.", ".")):
            rows = outgoing.shapes[key][0] if outgoing.shapes[key] else 0
            yield Finding(
                f"it keeps {inner} of {rows} rows, and PEFT loads that only on a base model whose "
                f"vocabulary has {rows}"
            )


def _of_heads(config: PeftConfig, whole: Collection[str]) -> Iterator[Finding]:
    wanted = SAVED_FOR_TASK.get(config.task_type or "", ())
    if wanted and not any(holds(key, name) for key in whole for name in wanted):
        problem = (
            f"task_type is {config.task_type}, for which PEFT demands a head "
            f"({' or '.join(wanted)}) that the file does not have; it raises KeyError"
        )
        yield Finding(problem, True, "Set task_type to null in its configuration, or merge again.")
    has_head = any(holds(key, name) for key in whole for name in HEADS)
    for name in config.modules_to_save:
        if not any(holds(key, name) for key in whole) and not (has_head and name in HEADS):
            yield Finding(
                f"modules_to_save names {name}, of which the file has no tensor; PEFT raises KeyError "
                "on a base model that has such a module"
            )


def _is_targeted(site: str, targets: Collection[str] | None) -> bool:
    if targets is None:
        return True
    parts = site.split(".")
    return any(".".join(parts[start:]) in targets for start in range(len(parts)))


def _guards(saved: str, site: str) -> bool:
    """Whether PEFT leaves a module alone since it, or one around it, is saved whole."""
    return f".{saved}." in f".{site}."


def _is_found(key: str, config: PeftConfig) -> bool:
    if config.bias != "none" and key.endswith(".bias"):
        return True
    return is_embedding_weight(key) or any(holds(key, name) for name in config.modules_to_save)
