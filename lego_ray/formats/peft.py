"""PEFT's layout: a configuration and a tensor table in, an adapter record out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.base_model import revision_in
from lego_ray.formats.differences import LORA_BIAS, Difference
from lego_ray.formats.factors import (
    GATHER,
    RESAVE,
    FactorKey,
    check_dtype,
    pair,
    refuse_unknown,
    site_factors,
    some,
)
from lego_ray.formats.identity import on_base
from lego_ray.formats.kinds import SCALARS, Parts, note_of, parse_kind
from lego_ray.formats.layouts import check_layout
from lego_ray.formats.lone import FullWeights
from lego_ray.formats.peft_absent import note_of_absent
from lego_ray.formats.peft_adalora import DIAGONAL, AdaLora, parse_key
from lego_ray.formats.peft_base import BaseKinds, check_magnitudes, parse_magnitude
from lego_ray.formats.peft_base import note_of as note_of_base
from lego_ray.formats.peft_beside import BIAS, beside_factors, noted_of, site_of_bias
from lego_ray.formats.peft_carried import HEADS, holds
from lego_ray.formats.peft_config import CONFIG_NAME, PeftConfig, config_from
from lego_ray.formats.peft_experts import ExpertConfig, check_axes, split_parameters
from lego_ray.formats.peft_keys import (
    PREFIX,
    is_embedding_name,
    is_full_weight,
    is_training_only,
    parse_factor,
)
from lego_ray.formats.peft_lycoris import TYPES, as_lora, lycoris_sites
from lego_ray.formats.peft_parameters import (
    parameter_of,
    ruled_by,
    split_base_layers,
    without_base_layers,
)
from lego_ray.formats.peft_patterns import PATTERNS, disagree, unmatched
from lego_ray.formats.peft_targets import Targets
from lego_ray.formats.peft_tied import tying_of
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.refusals import DROPPABLE, check_config, check_tensors
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import by_plain_key, is_twice, of_twice, unwrapped, without_doubt


def read_adapter(
    headers: AdapterHeaders,
    full_weights: FullWeights = "refuse",
    *,
    with_base: bool = False,
    initial: AdapterRecord | None = None,
) -> AdapterRecord:
    """Describes a PEFT LoRA from its headers, having checked all that headers can show.

    Every site of the record is a complete pair of float32, float16 or bfloat16 factors whose ranks
    agree with each other and with the configuration.

    Args:
        headers: The adapter's; with its configuration.
        full_weights: What to do with tensors that are not low-rank (saved modules, biases): refuse
            the adapter, drop them with a note, or keep them in the record. `sum` and `average` take the
            biases of `lora_bias`, which are differences, and refuse the others.
        with_base: Whether to take adapters whose update is computed with the base model too; where
            its weights lie is then still to be put into their sites.
        initial: The adapter as it was saved before training, where it lies in a folder of this one; it
            counts if training began with a changed base model.

    Raises:
        UnsupportedAdapter: If it is not a plain LoRA, or carries full weights and these are refused.
        RankMismatch: If a site's rank is not the one configured.
        MalformedAdapter: If a file is damaged, incomplete, or contradicts itself; a full weight of size
            0 among it, unless full weights are dropped.
    """
    root = headers.uri.rstrip("/")
    files = _Files(root, f"{root}/{CONFIG_NAME}", headers.weights)
    fields = parse_object(headers.config or b"", files.config)
    spans = by_plain_key(headers.spans, files.weights)
    names = list(spans)
    check_layout(fields, (), files.config)
    adalora = AdaLora.of(fields, files.config)
    is_lycoris = fields.get("peft_type") in TYPES
    if adalora:
        fields = adalora.as_lora(fields)
    elif is_lycoris:
        fields = as_lora(fields)
    kinds_of_base = BaseKinds.of(fields, with_base=with_base, initial=initial)
    if kinds_of_base:
        fields = kinds_of_base.as_lora(fields)
    droppable = DROPPABLE if full_weights == "drop" else {}
    adds = full_weights in ("sum", "average")
    taken = DROPPABLE if full_weights == "keep" else {BIAS} if adds else droppable
    check_config(fields, files.config, without=taken)
    written = [span.name for span in spans.values()]
    if is_twice(written):
        tables = {k: v for k in PATTERNS if isinstance(v := fields.get(k), dict)}
        fields = {**fields, **{k: of_twice(v) for k, v in tables.items()}}
    settings = config_from(fields, files.config)
    experts = ExpertConfig.of(fields, files.config)
    targets = Targets.of(fields, settings, experts, written, files.config)
    targets.drop_if_foreign(names)
    check_layout(fields, names, files.weights)
    dropped = [
        ([name for name in names if key.search(name)], note) for key, note in droppable.values()
    ]
    left_out = {name for found, _ in dropped for name in found}
    diagonals = {n for n in names if adalora and DIAGONAL.search(n)}
    beside = set(beside_factors(names, fields)) if full_weights == "keep" or adds else set()
    kinds = {n: kind for n in names if is_lycoris and (kind := parse_kind(n))}
    is_dora = kinds_of_base is not None and kinds_of_base.is_dora
    check_magnitudes(names, files.weights, is_dora=is_dora)
    of_dora = {n: site for n in names if is_dora and (site := parse_magnitude(n))}
    understood = left_out | diagonals | beside | kinds.keys() | of_dora.keys()
    check_tensors([n for n in names if n not in understood], files.weights)

    factors: list[tuple[FactorKey, TensorSpan]] = []
    of_rows: dict[str, TensorSpan] = {}
    whole: list[TensorSpan] = []
    notes: list[str] = []
    unknown: list[str] = []
    parts = Parts()
    magnitudes: dict[str, TensorSpan] = {}
    differences: list[Difference] = []
    for name, span in spans.items():
        if name in left_out:
            continue
        if not targets.loads_tensor(name):
            continue
        if name in of_dora:
            if not targets.loads(of_dora[name]):
                continue
            if magnitudes.setdefault(of_dora[name], span) is not span:
                problem = f"{of_dora[name]} has two magnitudes, {span.name} is one of them"
                raise MalformedAdapter(files.weights, problem, RESAVE)
            continue
        if kind := kinds.get(name):
            if targets.loads(site := kind.stem.removeprefix(PREFIX)):
                parts.add(site, kind, span, files.weights)
            continue
        key = parse_key(name) if adalora else parse_factor(name)
        if key and not targets.loads(key.site):
            continue
        if key and key.half == "E":
            of_rows[key.site] = span
        elif key:
            factors.append((key, span))
        elif adds and name in beside:
            site = site_of_bias(name)
            check_dtype(span, files.weights)
            differences.append(Difference(site, LORA_BIAS, span, settings.scaling_of(site)))
        elif name in beside or is_full_weight(name, settings):
            whole.append(span)
        elif is_training_only(name):
            notes.append(f"{span.name} is of use in training only and was left out")
        else:
            unknown.append(span.name)
    refuse_unknown(unknown, files.weights)
    notes += [*targets.notes(), *note_of_absent(fields, targets)]
    if full_weights == "refuse" or adds:
        adapted = {key.site for key, _ in factors} | set(parts.forms)
        whole, unchanged = _without_embeddings(whole, adapted)
        if unchanged:
            notes.append(_EMBEDDINGS.format(some([span.name for span in unchanged])))
    _check_full_weights(whole, full_weights, files)
    if whole and full_weights == "drop":
        notes.append(f"full weights were dropped: {some([span.name for span in whole])}")
    notes += [f"{note}: {some(sorted(found))}" for found, note in dropped if found]
    notes += _incomplete(whole, settings)
    kept = tuple(sorted(whole, key=lambda span: span.name)) if full_weights == "keep" else ()
    if adalora:
        sites, more = _adalora_sites(factors, of_rows, settings, adalora, files)
    elif is_lycoris:
        refuse_unknown([span.name for _, span in factors], files.weights)
        sites = lycoris_sites(parts, settings, files.weights, files.config)
        more = [*note_of(sites), *([SCALARS] if parts.scalars else [])]
    else:
        sites, more = _pair(factors, settings, experts, files)
    if kinds_of_base:
        sites = kinds_of_base.sites(sites, magnitudes, settings, files.weights)
        more = [*more, *note_of_base(sites)]
    notes += more
    of_patterns, idle = _of_patterns(sites, settings, experts)
    notes += of_patterns
    of_training = kinds_of_base.initial if kinds_of_base else None
    if of_training is not None:
        headers = replace(headers, adapter_id=on_base(headers.adapter_id, of_training.adapter_id))
        folder = of_training.uri.rstrip("/").rpartition("/")[2]
        notes.append(f"the factors that training began with are those in {folder}")
    return headers.record(
        format="peft",
        base_model=settings.base_model,
        sites=sites,
        config={
            "task_type": settings.task_type,
            "fan_in_fan_out": settings.fan_in_fan_out,
            "modules_to_save": list(settings.modules_to_save) or None if kept else None,
            "bias": settings.bias if kept else "none",
            **noted_of(beside_factors((span.name for span in kept), fields), fields, settings),
            **revision_in(fields),
            **tying_of(fields, [s.site for s in sites], [span.name for span in kept]),
        },
        full_weights=kept,
        differences=tuple(sorted(differences, key=lambda each: each.key)),
        notes=tuple(notes),
        left_out="\n".join([*sorted(targets.ignored), *idle]),
    )


def _of_patterns(
    sites: Sequence[SiteFactors], settings: PeftConfig, experts: ExpertConfig
) -> tuple[list[str], list[str]]:
    """What to tell of patterns: keys whose order decides, and keys without effect.

    Returns:
        Notes; and the keys that would have an effect without PEFT's own prefix.
    """
    ruled = dict.fromkeys(ruled_by(parameter_of(s.site, s.kind)) for s in sites)
    unsure = [name for name in ruled if disagree(settings.alpha_pattern, name)]
    notes = []
    if unsure:
        notes.append(
            f"alpha_pattern has entries that disagree for {some(unsure)}; the first in the file "
            "counts, as when PEFT loads it, which need not be the one training used"
        )
    # They may be older than a wrapper in a path, or have the name that a parameter was stored under.
    paths = {*ruled, *map(without_doubt, ruled)}
    idle = {name: unmatched(getattr(settings, name), paths) for name in PATTERNS}
    said = [f"{name} {some(keys)}" for name, keys in idle.items() if keys]
    if said and not experts.targets:
        notes.append(
            f"keys that match no module have no effect in PEFT, nor here: {'; '.join(said)}"
        )
    prefixed = [f"{n} {k}" for n, keys in idle.items() for k in keys if of_twice({k: 0}) != {k: 0}]
    return notes, prefixed


_EMBEDDINGS = (
    "the base model's own weights of an adapted embedding, which PEFT saves unasked, were left out: {}. "
    "If the vocabulary was resized before training, they are not the base model's: take them along "
    "with --full-weights keep:NAME"
)


def _without_embeddings(
    whole: Sequence[TensorSpan], adapted: Collection[str]
) -> tuple[list[TensorSpan], list[TensorSpan]]:
    """Full weights without, and those that are, base weights of embeddings that have factors.

    Training does not change these; with another vocabulary the factors would not fit the base model,
    and PEFT refuse to load them.
    """
    left: list[TensorSpan] = []
    unchanged: list[TensorSpan] = []
    for span in whole:
        module = unwrapped(span.name).removeprefix(PREFIX).rpartition(".")[0]
        inner, depth = split_base_layers(module)
        is_own = depth == 1 and inner in adapted and is_embedding_name(inner)
        (unchanged if is_own else left).append(span)
    return left, unchanged


@dataclass(frozen=True, slots=True)
class _Files:
    """The adapter's directory and files, as errors name them."""

    root: str
    config: str
    weights: str


def _incomplete(whole: Sequence[TensorSpan], settings: PeftConfig) -> list[str]:
    """What the file lacks of the modules that its configuration says it holds."""
    found = {n for n in settings.modules_to_save if any(holds(s.name, n) for s in whole)}
    if found & HEADS:  # of these PEFT writes all names, and a model has one of them
        found |= HEADS
    lacking = [name for name in settings.modules_to_save if name not in found]
    if not lacking:
        return []
    return [
        f"modules_to_save names {', '.join(lacking)}, of which the file has no tensor: what was "
        "trained of it is not in the adapter"
    ]


def _check_full_weights(whole: Sequence[TensorSpan], choice: FullWeights, files: _Files) -> None:
    empty = next((span for span in whole if 0 in span.shape), None)
    if empty is not None and choice != "drop":
        problem = (
            f"the adapter's file is incomplete: {empty.name} has shape {list(empty.shape)}, so that "
            "its values are not in the file"
        )
        hint = f"{GATHER} --full-weights drop merges the rest of it."
        raise MalformedAdapter(files.weights, problem, hint)
    if whole and choice not in ("keep", "drop"):
        problem = (
            "it carries full weights, which are not low-rank and cannot be merged "
            f"(modules_to_save, biases or embeddings): {some([span.name for span in whole])}"
        )
        if choice != "refuse":
            problem += f". --full-weights {choice} takes differences, and these replace weights"
        hint = (
            "Choose --full-weights drop to leave them out, or --full-weights keep:NAME to take them "
            "from the one adapter of that name."
        )
        raise UnsupportedAdapter(files.weights, problem, hint)
    for span in whole if choice == "keep" else ():
        check_dtype(span, files.weights)


def _pair(
    factors: Sequence[tuple[FactorKey, TensorSpan]],
    settings: PeftConfig,
    experts: ExpertConfig,
    files: _Files,
) -> tuple[tuple[SiteFactors, ...], list[str]]:
    """The sites of an adapter, sorted, and notes on those of parameters."""
    pairs = pair(factors, files.weights)
    check_axes(pairs, files.weights)
    paths = {module for found in pairs if (module := split_base_layers(found.site)[0])}
    named = {f"{path}.{name}" for path in paths for name in experts.parameters_of(path)}
    settings.check_affordable([*(found.site for found in pairs), *sorted(named)], files.config)
    plain, sites, notes = split_parameters(pairs, experts, settings, files.weights, files.config)
    plain, renamed = without_base_layers(plain, files.weights)
    notes += [renamed] if renamed else []
    for found in plain:
        scaling = settings.scaling_of(found.site)
        factor = site_factors(found, scaling=scaling, where=files.weights)
        wanted = settings.rank_of(found.site)
        if factor.rank != wanted:
            source = "r" if wanted == settings.r else "rank_pattern"
            problem = (
                f"{source} gives {found.site} rank {wanted}, its tensor has rank {factor.rank}"
            )
            name = files.root.rpartition("/")[2]
            hint = (
                "Expected the two to agree. Re-export the adapter, or leave it out with "
                f"--exclude {name}."
            )
            raise RankMismatch(files.config, problem, hint)
        sites.append(factor)
    return tuple(sorted(sites, key=lambda site: site.site)), notes


def _adalora_sites(
    factors: Sequence[tuple[FactorKey, TensorSpan]],
    diagonals: Mapping[str, TensorSpan],
    settings: PeftConfig,
    adalora: AdaLora,
    files: _Files,
) -> tuple[tuple[SiteFactors, ...], list[str]]:
    """The sites of an AdaLoRA, sorted, and a note on those of which nothing was kept."""
    sites, emptied = [], []
    for found in pair(factors, files.weights):
        site = adalora.site(found, diagonals.get(found.site), settings.lora_alpha, files.weights)
        if site is None:
            emptied.append(found.site)
        else:
            sites.append(site)
    if not sites:
        problem = "AdaLoRA cut every rank of every module, so the update is zero"
        raise MalformedAdapter(files.weights, problem, "Leave it out with --exclude.")
    notes = (
        [f"AdaLoRA kept no rank of {some(emptied)}, which it does not change"] if emptied else []
    )
    return tuple(sites), notes
