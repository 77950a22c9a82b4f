"""Factors of parameters that PEFT adapts by name, mixtures of experts above all: one site an expert.

For a parameter of shape (E, x, y) PEFT stores A of shape (E r, d) and B of shape (d', E r), and merges
by `einsum("o r e, e r i -> ...")` (`ParamWrapper.get_delta_weight`, PEFT 0.17 to 0.21): rows e r to
e r + r of A are expert e's, and so are columns e, e + E, e + 2 E, ... of B. Unsloth's own forward pass
took columns e r to e r + r of B until unsloth-zoo 2026.9, and its files say which only since then.

Which axis A is on changed. Up to 0.18, A was on axis x. 0.19.0 had it there for most models, and since
0.19.1 it is on axis y, but on x for modules that say `is_transposed` (gpt-oss). An older file is taken
as the same update with the two factors exchanged, where its shapes show the order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.factors import RESAVE, Pair, site_factors, some
from lego_ray.formats.peft_config import PeftConfig
from lego_ray.formats.peft_parameters import WRITTEN_FOR, depths, split_base_layers
from lego_ray.formats.site_factors import Packed, SiteFactors

_RANK_MAJOR, _GROUPED = "rank_major", "grouped_by_expert"
# The parameter's input is the model's hidden size, or its output is.
_TAKES_HIDDEN = ("gate_up_proj", "gate_proj", "up_proj")
_GIVES_HIDDEN = ("down_proj",)
_READS_HIDDEN = ("q_proj", "k_proj", "v_proj", "qkv_proj")
_LLAMA_4 = re.compile(r"llama-?_?4(?![0-9])", re.IGNORECASE)
_NEW = tuple(map(int, WRITTEN_FOR.split(".")))


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """What a configuration says of parameters.

    Attributes:
        targets: `target_parameters`: names, or ends of their paths.
        version: The release of PEFT that saved it; empty before 0.18, which did not say.
        layouts: Unsloth's word for the columns of B, by parameter; the empty name stands for all.
        is_unsloth: Whether Unsloth saved it.
    """

    targets: tuple[str, ...]
    version: str
    layouts: Mapping[str, str]
    is_unsloth: bool

    @classmethod
    def of(cls, fields: Mapping[str, object], where: str) -> ExpertConfig:
        """Reads it from a configuration.

        Args:
            fields: The configuration, parsed.
            where: The configuration file, for the error.

        Raises:
            MalformedAdapter: If a value is of the wrong type.
            UnsupportedAdapter: If the file names an order of B that is not known.
        """
        targets = fields.get("target_parameters") or []
        if not isinstance(targets, list) or not all(isinstance(t, str) and t for t in targets):
            problem = (
                f"target_parameters is {str(targets)[:80]!r}, expected a list of names or null"
            )
            raise MalformedAdapter(where, problem, "Save the adapter again with PEFT.")
        version = fields.get("peft_version")
        mapping = fields.get("auto_mapping")
        marks = mapping if isinstance(mapping, dict) else {}
        return cls(
            targets=tuple(targets),
            version=version if isinstance(version, str) else "",
            layouts=_layouts(fields, where),
            is_unsloth=bool(marks.get("unsloth_fixed") or fields.get("unsloth_fixed")),
        )

    @property
    def is_old(self) -> bool:
        """Whether PEFT saved it before A and B got their present places."""
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)(\.dev)?", self.version)
        if numbers is None:
            return True
        found = tuple(map(int, numbers.groups()[:3]))
        return found < _NEW or (found == _NEW and numbers[4] is not None)

    def parameters_of(self, module: str, *, by_path: bool = False) -> tuple[str, ...]:
        """The parameters that it may target in a module; by PEFT's rule the end of their path counts.

        Args:
            module: The module's path.
            by_path: Leave out targets that name a parameter alone, which any module might have.
        """
        found: dict[str, None] = {}
        for target in self.targets:
            head, _, name = target.rpartition(".")
            if f".{module}".endswith(f".{head}") if head else not by_path:
                found[name] = None
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _Found:
    """The factors of a parameter.

    Attributes:
        name: The parameter's path.
        pair: Its factors as stored.
        rank: r of each expert.
        experts: E; 1 for a parameter of two axes.
    """

    name: str
    pair: Pair
    rank: int
    experts: int


def check_axes(pairs: Iterable[Pair], where: str) -> None:
    """Passes factors of two axes, and of more where they are not those of experts.

    Tinker keeps the experts on an axis of their own, `experts.w1.lora_A` of shape (E or 1, r, d). What
    w1 is called in the model depends on the model, so its own converter is needed.

    Args:
        pairs: All factors of the file.
        where: The weights file, for the error.

    Raises:
        UnsupportedAdapter: Otherwise.
    """
    for pair in pairs:
        if len(pair.a.shape) == 3 and "experts" in pair.site.split("."):
            problem = (
                f"{pair.site} has the factors of its experts on an axis of their own, in A of shape "
                f"{list(pair.a.shape)}, as Tinker saves them"
            )
            hint = "Convert it to PEFT's layout with tinker_cookbook.weights.build_lora_adapter."
            raise UnsupportedAdapter(where, problem, hint)


def split_parameters(
    pairs: Sequence[Pair], config: ExpertConfig, settings: PeftConfig, where: str, place: str
) -> tuple[list[Pair], list[SiteFactors], list[str]]:
    """Takes the factors of parameters out of an adapter's.

    Args:
        pairs: All factors of the file, by the path in their keys.
        config: What its configuration says of parameters.
        settings: Its ranks and scalings.
        where: The weights file, for the error.
        place: The configuration file, for the error.

    Returns:
        The factors of modules; a site for each parameter or expert; and notes.

    Raises:
        UnsupportedAdapter: If it is not certain which parameter, expert or axis a factor is of.
        RankMismatch: If a rank is not the one configured.
        MalformedAdapter: If factors are missing.
    """
    if not config.targets:
        return list(pairs), [], []
    modules: dict[str, dict[int, Pair]] = defaultdict(dict)
    for pair in pairs:
        module, depth = split_base_layers(pair.site)
        modules[module][depth] = pair
    plain: list[Pair] = []
    found: dict[str, dict[str, _Found]] = {}
    for module, mine in modules.items():
        names = config.parameters_of(module)
        if not names or _is_plain(module, mine, config, settings):
            plain += mine.values()
            continue
        surely = config.parameters_of(module, by_path=True)
        at = _depths_of(module, names if len(names) == len(mine) else surely or names, mine, where)
        found[module] = {
            name: _sized(f"{module}.{name}", mine[depth], settings, where, place)
            for name, depth in at.items()
        }
    sites: list[SiteFactors] = []
    notes: dict[str, None] = {}
    for module, parameters in found.items():
        parameters = _renamed(module, parameters, settings, where, place)
        swapped = _is_swapped(module, parameters, plain, config, settings.base_model, place)
        if swapped:
            notes[_note_of(config)] = None
        for name, each in parameters.items():
            grouped = _is_grouped(name, each, config, place)
            if grouped:
                notes[_UNSLOTH_NOTE] = None
            sites += _sites(each, settings, where, grouped=grouped, swapped=swapped)
    return plain, sites, list(notes)


_UNSLOTH_NOTE = (
    "the columns of B of its experts are in Unsloth's order of before unsloth-zoo 2026.9 "
    f"({_GROUPED}); the merge has them in PEFT's"
)


def _note_of(config: ExpertConfig) -> str:
    by = f"PEFT {config.version}" if config.version else "a PEFT that did not give its version"
    return (
        f"{by} saved it, with A and B of its experts the other way about than PEFT {WRITTEN_FOR} and "
        "later; the merge has them in the later order"
    )


def _layouts(fields: Mapping[str, object], where: str) -> dict[str, str]:
    out: dict[str, object] = {"": fields.get("lora_B_layout")}
    detail = fields.get("unsloth_fused_expert_lora")
    if isinstance(detail, dict):
        parameters = detail.get("parameters")
        for name, each in parameters.items() if isinstance(parameters, dict) else ():
            out[name] = each.get("lora_B_layout") if isinstance(each, dict) else None
        if detail.get("lora_A_layout", _GROUPED) != _GROUPED:
            out["lora_A_layout"] = detail["lora_A_layout"]
    for name, value in out.items():
        if value not in (None, _RANK_MAJOR, _GROUPED) or name == "lora_A_layout":
            problem = f"it has the factors of its experts in the order {str(value)[:40]!r}"
            hint = "Upgrade lego-ray, or save the adapter again with PEFT."
            raise UnsupportedAdapter(where, problem, hint)
    return {name: str(value) for name, value in out.items() if value is not None}


def _is_plain(
    module: str, mine: Mapping[int, Pair], config: ExpertConfig, settings: PeftConfig
) -> bool:
    """Whether factors are of the module itself, whose name no target has."""
    if config.parameters_of(module, by_path=True) or set(mine) != {0}:
        return False
    pair = mine[0]
    is_experts = module.rpartition(".")[2] == "experts"
    return pair.is_embedding or (pair.a.shape[:1] == (settings.rank_of(module),) and not is_experts)


def _depths_of(
    module: str, names: Sequence[str], mine: Mapping[int, Pair], where: str
) -> dict[str, int]:
    """Which of a module's factors are which parameter's."""
    found = depths(names)
    if found is None or sorted(mine) != list(range(len(names))):
        problem = (
            f"target_parameters names {some(sorted(names))} of {module}, and the file has "
            f"{len(mine)} pairs of factors there: which belongs to which cannot be determined"
        )
        hint = (
            "Correct target_parameters in adapter_config.json so that it names the parameters that "
            "were trained, or leave the adapter out with --exclude."
        )
        raise UnsupportedAdapter(where, problem, hint)
    return found


def _sized(name: str, pair: Pair, settings: PeftConfig, where: str, place: str) -> _Found:
    a, b = pair.a, pair.b
    if pair.is_embedding or len(a.shape) != 2 or len(b.shape) != 2:
        problem = f"{name} has A of shape {list(a.shape)} and B of shape {list(b.shape)}"
        raise MalformedAdapter(where, problem, RESAVE)
    rank, rows = settings.rank_of(name), a.shape[0]
    if rows != b.shape[1]:
        problem = f"{name} has {rows} rows in A ({a.name}) and {b.shape[1]} columns in B ({b.name})"
        raise RankMismatch(where, problem, RESAVE)
    if rows % rank or not rows:
        problem = (
            f"{name} is configured with rank {rank}, of which {rows} rows of A are not a multiple"
        )
        raise RankMismatch(place, problem, RESAVE)
    return _Found(name, pair, rank, rows // rank)


def _renamed(
    module: str,
    found: dict[str, _Found],
    settings: PeftConfig,
    where: str,
    place: str,
) -> dict[str, _Found]:
    """Takes the factors of two parameters for each other's where only that fits their shapes."""
    if set(found) != {"gate_up_proj", "down_proj"} or _axes(found, None) is not None:
        return found
    up, down = found["down_proj"].pair, found["gate_up_proj"].pair
    try:
        other = {
            name: _sized(f"{module}.{name}", pair, settings, where, place)
            for name, pair in (("gate_up_proj", up), ("down_proj", down))
        }
    except RankMismatch:
        return found
    return found if _axes(other, None) is None else other


def _axes(found: Mapping[str, _Found], hidden: int | None) -> bool | None:
    """Whether A is on the side of the outputs; None if the shapes do not show it.

    Args:
        found: A module's parameters.
        hidden: The model's hidden size, if it is known.
    """
    sides = {name: (each.pair.a.shape[1], each.pair.b.shape[0]) for name, each in found.items()}
    said: set[bool] = set()
    if "gate_up_proj" in sides and "down_proj" in sides:
        (one, two), (three, four) = sides["gate_up_proj"], sides["down_proj"]
        if one == four and two == 2 * three:
            said.add(False)
        if two == three and one == 2 * four:
            said.add(True)
    elif hidden is not None:
        for name, (a, b) in sides.items():
            if a == b or hidden not in (a, b):
                continue
            if name in _TAKES_HIDDEN:
                said.add(b == hidden)
            elif name in _GIVES_HIDDEN:
                said.add(a == hidden)
    return said.pop() if len(said) == 1 else None


def _hidden_size(module: str, plain: Iterable[Pair]) -> int | None:
    """What the attention of the same layer reads, if the adapter has it."""
    layer = re.match(r"(?:.*?\.)?\d+\.", module)
    if layer is None:
        return None
    sizes = {
        pair.a.shape[1]
        for pair in plain
        if pair.site.startswith(layer[0])
        and pair.site.rpartition(".")[2] in _READS_HIDDEN
        and len(pair.a.shape) == 2
    }
    return sizes.pop() if len(sizes) == 1 else None


def _is_swapped(
    module: str,
    found: Mapping[str, _Found],
    plain: Collection[Pair],
    config: ExpertConfig,
    base_model: str,
    place: str,
) -> bool:
    """Whether A and B are to be exchanged, so that the pair is as PEFT stores it now."""
    if not config.is_old or all(each.experts == 1 for each in found.values()):
        return False
    on_outputs = _axes(found, _hidden_size(module, plain))
    # Llama 4 has its inputs on axis x and does not say `is_transposed`, others that have do. Which of
    # both it is shows in the name alone.
    is_llama = _LLAMA_4.search(base_model) is not None
    if on_outputs is None or (
        not on_outputs and not is_llama and module.endswith("feed_forward.experts")
    ):
        problem = (
            "it was saved by a PEFT older than "
            f"{WRITTEN_FOR}{f' ({config.version})' if config.version else ''}, which stored A and B of "
            f"some models' experts the other way about, and neither shapes nor the name of the base "
            f"model show which way those of {module} are"
        )
        hint = (
            f'If PEFT {WRITTEN_FOR} or later loads it, set "peft_version": "{WRITTEN_FOR}" in '
            "adapter_config.json; otherwise leave it out with --exclude."
        )
        raise UnsupportedAdapter(place, problem, hint)
    return on_outputs != is_llama


def _is_grouped(name: str, found: _Found, config: ExpertConfig, place: str) -> bool:
    """Whether the columns of B are grouped by expert, as Unsloth had them."""
    if found.experts == 1 or found.rank == 1:
        return False  # the same either way
    layout = config.layouts.get(name, config.layouts.get(""))
    if layout is None and config.is_unsloth:
        problem = (
            f"Unsloth trained the experts of {found.name}, and did not write down whether the columns "
            "of B are in PEFT's order or grouped by expert, as they were before unsloth-zoo 2026.9"
        )
        hint = (
            f'Set "lora_B_layout" in adapter_config.json to "{_GROUPED}" if an unsloth-zoo before '
            f'2026.9 trained it, or to "{_RANK_MAJOR}" if a later one did.'
        )
        raise UnsupportedAdapter(place, problem, hint)
    return layout == _GROUPED


def _sites(
    found: _Found, settings: PeftConfig, where: str, *, grouped: bool, swapped: bool
) -> list[SiteFactors]:
    scaling = settings.scaling_of(found.name)
    if found.experts == 1:
        whole = site_factors(
            Pair(found.name, False, found.pair.a, found.pair.b), scaling=scaling, where=where
        )
        return [SiteFactors(found.name, "parameter", whole.rank, scaling, whole.a, whole.b)]
    site_factors(found.pair, scaling=scaling, where=where)  # types and sizes
    return [
        SiteFactors(
            site=f"{found.name}.{number}",
            kind="expert",
            rank=found.rank,
            scaling=scaling,
            a=found.pair.a,
            b=found.pair.b,
            packed=Packed(found.experts, number, grouped, swapped),
        )
        for number in range(found.experts)
    ]
