"""What an adapter changes in a base model: which tensors, and by which factors. Reads headers only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lego_ray.errors import UnusableBase
from lego_ray.formats.base_weights import PLAIN_DTYPES
from lego_ray.formats.differences import LORA_BIAS, Difference
from lego_ray.formats.peft_beside import BIAS as LORA_BIAS_FIELD
from lego_ray.formats.peft_beside import beside_factors, site_of_bias
from lego_ray.formats.peft_carried import holds
from lego_ray.formats.peft_keys import PREFIX, full_weight_key
from lego_ray.formats.peft_parameters import BASE_LAYER, parameter_of
from lego_ray.formats.record import AdapterRecord
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.planning.base_names import (
    BaseNames,
    is_embedding_of_head,
    tied_embedding,
)
from lego_ray.planning.by_head import in_order_of
from lego_ray.sources.base_layers import BaseLayers, looks_like_conv1d, shape_of
from lego_ray.sources.base_model import BaseModel, BaseTensor, Component

# Models whose experts are stored with inputs first, as PEFT knows from their classes.
_TRANSPOSED_EXPERTS = ("gpt_oss", "aria", "aria_text", "openai_privacy_filter")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Update:
    """A low-rank update of one tensor.

    Attributes:
        factors: The pair; of a tensor that holds all experts, the pair of each.
        is_transposed: Whether the tensor holds the transpose of B A.
        rows: The rows of B A that the tensor holds, if it is a part of them.
        is_swapped: Whether the halves of its rows stand the other way about than those of B A.
        into: The rows of the tensor that it is added to, if the tensor holds several modules.
    """

    factors: tuple[SiteFactors, ...]
    is_transposed: bool = False
    rows: tuple[int, int] | None = None
    is_swapped: bool = False
    into: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one tensor of the base model.

    Attributes:
        tensor: The tensor.
        updates: What is added, in order.
        replaced_by: The adapter's tensor that takes its place first, or None.
        added: Differences that are added as they are, times their scaling.
    """

    tensor: BaseTensor
    updates: tuple[Update, ...] = ()
    replaced_by: TensorSpan | None = None
    added: tuple[Difference, ...] = ()


def changes_of(adapter: AdapterRecord, base: BaseModel) -> dict[tuple[str, str], Change]:
    """What an adapter changes in a base model.

    Args:
        adapter: The adapter, its full weights kept.
        base: The base model.

    Returns:
        By key of the file and name of the tensor.

    Raises:
        UnusableBase: If the base model lacks a module of the adapter, or one has another size.
    """
    [adapter] = in_order_of([adapter], by_heads=False)
    groups: dict[str, list[SiteFactors]] = defaultdict(list)
    for factors in adapter.sites:
        groups[parameter_of(factors.site, factors.kind)].append(factors)
    layers = BaseLayers(base, list(groups), of_first=True)
    is_pipeline = base.is_pipeline or bool(base.file)
    is_pipeline = is_pipeline or (layers.is_pipeline and adapter.format != "peft")
    finder = _Pipeline(base, layers) if is_pipeline else _Model(base, adapter, list(groups))
    found: dict[tuple[str, str], tuple[BaseTensor, list[Update]]] = {}
    missing: list[str] = []
    for path in sorted(groups, key=finder.is_head):  # PEFT adds the head's update last
        pairs = list(finder.updates(path, groups[path]))
        if not pairs:
            missing.append(path)
        for tensor, update in pairs:
            _check_type(tensor, base)
            key = (tensor.file.key, tensor.span.name)
            found.setdefault(key, (tensor, []))[1].append(update)
    replaced: dict[tuple[str, str], tuple[BaseTensor, TensorSpan]] = {}
    biases = set(beside_factors(span.name for span in adapter.full_weights))
    added: dict[tuple[str, str], tuple[BaseTensor, list[Difference]]] = {}
    for each in (*adapter.differences, *_biases(adapter)):
        to = finder.added(each)
        if to is None:
            missing.append(f"{each.module}.{'bias' if each.part == 'bias' else 'weight'}")
            continue
        if _without_ones(to.span.shape) != _without_ones(each.span.shape):
            raise _other_size(base, to, f"{each.span.name} of the adapter", each.span.shape)
        _check_type(to, base)
        added.setdefault((to.file.key, to.span.name), (to, []))[1].append(each)
    for span in adapter.full_weights:
        if span.name in biases:
            continue
        whole = finder.replaced(span)
        if whole is None:
            missing.append(span.name)
            continue
        if whole.span.shape != span.shape:
            raise _other_size(base, whole, f"{span.name} of the adapter", span.shape)
        _check_type(whole, base)
        replaced[whole.file.key, whole.span.name] = (whole, span)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        problem = (
            f"the base model lacks {', '.join(missing[:_SHOWN])}{more}, which the adapter changes"
        )
        raise UnusableBase(base.uri, problem)
    out: dict[tuple[str, str], Change] = {}
    for key in sorted(found.keys() | replaced.keys() | added.keys()):
        tensor = (found.get(key) or replaced.get(key) or added[key])[0]
        updates = tuple(found[key][1]) if key in found else ()
        plain = tuple(added[key][1]) if key in added else ()
        out[key] = Change(tensor, updates, replaced[key][1] if key in replaced else None, plain)
    return out


def _biases(adapter: AdapterRecord) -> Iterator[Difference]:
    """The biases of an adapter of PEFT's that has some beside its factors (`lora_bias`)."""
    noted = adapter.config.get(LORA_BIAS_FIELD)
    scalings = noted if isinstance(noted, Mapping) else {}
    for span in adapter.full_weights:
        if span.name in scalings:
            yield Difference(site_of_bias(span.name), LORA_BIAS, span, float(scalings[span.name]))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


class _Model:
    """A model of one component, whose adapter names modules as PEFT does."""

    def __init__(self, base: BaseModel, adapter: AdapterRecord, paths: Sequence[str]) -> None:
        self._base, self._adapter = base, adapter
        self._component: Component = base.components[0]
        self._tensors: Mapping[str, BaseTensor] = self._component.tensors
        self._names = BaseNames(self._tensors, paths)
        self._sites = {factors.site for factors in adapter.sites}
        turned = bool(adapter.config.get("fan_in_fan_out"))
        self._has_conv1d = looks_like_conv1d(self._tensors, turned)

    def is_head(self, path: str) -> tuple[bool, str]:
        return self._own(path) is None and tied_embedding(path, self._tensors) is not None, path

    def _own(self, path: str) -> str | None:
        return self._names.find(f"{path}.weight")

    def updates(
        self, path: str, pairs: Sequence[SiteFactors]
    ) -> Iterator[tuple[BaseTensor, Update]]:
        kind = pairs[0].kind
        if kind == "expert":
            yield from self._experts(path, pairs)
            return
        name = self._names.find(path) if kind == "parameter" else self._own(path)
        if name is None and (name := tied_embedding(path, self._tensors)) is None:
            return
        tensor = self._tensors[name]
        _check_untied(self._component, self._base, name, self._tensors)
        yield tensor, _fitted(self._base, tensor, pairs[0], self._is_conv1d(name))

    def _experts(
        self, path: str, pairs: Sequence[SiteFactors]
    ) -> Iterator[tuple[BaseTensor, Update]]:
        ordered = sorted(pairs, key=lambda each: int(each.site.rpartition(".")[2]))
        first = ordered[0]
        name = self._names.find(path)
        if name is not None:
            tensor = self._tensors[name]
            shape = (len(ordered), first.d_out, first.d_in)
            other = (len(ordered), first.d_in, first.d_out)
            is_square = shape == other
            if tensor.span.shape not in (shape, other):
                raise _other_size(self._base, tensor, path, shape)
            model_type = self._component.config.get("model_type")
            turned = model_type in _TRANSPOSED_EXPERTS if is_square else tensor.span.shape == other
            yield tensor, Update(tuple(ordered), turned)
            return
        for factors in ordered:
            names = self._names.parts_of_expert(path, int(factors.site.rpartition(".")[2]))
            start = 0
            for each in names:
                tensor = self._tensors[each]
                end = start + tensor.span.shape[0]
                yield tensor, Update((factors,), rows=(start, end))
                if tensor.span.shape != (end - start, factors.d_in):
                    raise _other_size(self._base, tensor, path, (factors.d_out, factors.d_in))
                start = end
            if names and start != factors.d_out:
                raise _other_size(self._base, tensor, path, (factors.d_out, factors.d_in))

    def added(self, each: Difference) -> BaseTensor | None:
        name = None if each.part == "modulation" else self._names.find(f"{each.module}.{each.part}")
        if name is None:
            return None
        _check_untied(self._component, self._base, name, self._tensors)
        return self._tensors[name]

    def replaced(self, span: TensorSpan) -> BaseTensor | None:
        key = full_weight_key(span.name)
        module, _, parameter = key.removeprefix(PREFIX).rpartition(".")
        is_shared = module.endswith(f".{BASE_LAYER}")
        module = module.removesuffix(f".{BASE_LAYER}")
        name = self._names.find(f"{module}.{parameter}")
        listed = self._adapter.config.get("modules_to_save")
        saved = listed if isinstance(listed, list | tuple) else ()
        is_copy = not is_shared and any(holds(key, str(each)) for each in saved)
        shared = tied_embedding(module, self._tensors)
        if name is None and shared is not None and is_shared:
            name = shared  # what the adapter's head was adapted on, which is one with the embedding
        if name is None and shared is None:
            return None
        if name is None or (is_copy and is_embedding_of_head(name) and self._is_tied()):
            problem = (
                f"its input embedding and output layer are one tensor, and the adapter has another for "
                f"one of them ({span.name})"
            )
            hint = (
                "Untie them in the base model first (tie_word_embeddings: false, and both tensors "
                "saved), or merge again with --full-weights drop."
            )
            raise UnusableBase(self._base.uri, problem, hint)
        return self._tensors[name]

    def _is_tied(self) -> bool:
        return not any(
            n.removesuffix(".weight").rpartition(".")[2] in ("lm_head", "embed_out")
            for n in self._tensors
        ) and not any(n.startswith("score.") for n in self._tensors)

    def _is_conv1d(self, name: str) -> bool:
        """Whether a square weight is stored with inputs first."""
        return self._has_conv1d and f"{name.removesuffix('.weight')}.bias" in self._tensors


class _Pipeline:
    """A pipeline of diffusers, or its denoiser, whose adapter may have any names that mean the same."""

    def __init__(self, base: BaseModel, layers: BaseLayers) -> None:
        self._base, self._layers = base, layers

    def is_head(self, path: str) -> tuple[bool, str]:
        return False, path

    def updates(
        self, path: str, pairs: Sequence[SiteFactors]
    ) -> Iterator[tuple[BaseTensor, Update]]:
        layer, pair = self._layers.find(path), pairs[0]
        if layer is None:
            return
        if len(layer.tensors) == 1 and not layer.is_swapped and layer.rows is None:
            yield layer.tensors[0], _fitted(self._base, layer.tensors[0], pair, False)
            return
        if shape_of(layer) != (pair.d_out, pair.d_in):
            raise _other_size(self._base, layer.tensors[0], path, (pair.d_out, pair.d_in))
        if layer.rows is not None:
            yield layer.tensors[0], Update((pair,), is_swapped=layer.is_swapped, into=layer.rows)
            return
        start = 0
        for tensor in layer.tensors:  # the authors have in one module what diffusers has in several
            end = start + tensor.span.shape[0]
            yield tensor, Update((pair,), rows=(start, end), is_swapped=layer.is_swapped)
            start = end

    def added(self, each: Difference) -> BaseTensor | None:
        return None if each.part == "modulation" else self._layers.tensor(each.module, each.part)

    def replaced(self, span: TensorSpan) -> BaseTensor | None:
        return None


def _fitted(base: BaseModel, tensor: BaseTensor, pair: SiteFactors, conv1d: bool) -> Update:
    """The update of a tensor by one pair, the way about that it is stored."""
    shape = tensor.span.shape
    if pair.kind == "conv":
        wanted = (pair.d_out, *pair.a_tail)
        if shape != wanted:
            raise _other_size(base, tensor, pair.site, wanted)
        return Update((pair,))
    plain, turned = (pair.d_out, pair.d_in), (pair.d_in, pair.d_out)
    if pair.kind == "embedding":
        if shape != turned:
            raise _other_size(base, tensor, pair.site, turned)
        return Update((pair,), is_transposed=True)
    one_by_one = len(shape) == 4 and shape[2:] == (1, 1) and shape[:2] == plain
    if shape not in (plain, turned) and not one_by_one:
        raise _other_size(base, tensor, pair.site, plain)
    is_turned = conv1d if plain == turned else shape == turned
    return Update((pair,), is_transposed=is_turned)


def _check_type(tensor: BaseTensor, base: BaseModel) -> None:
    if tensor.span.dtype not in PLAIN_DTYPES:
        problem = f"{tensor.span.name} is {tensor.span.dtype}, expected {', '.join(PLAIN_DTYPES)}"
        raise UnusableBase(base.uri, problem)


def _check_untied(
    component: Component, base: BaseModel, name: str, tensors: Mapping[str, BaseTensor]
) -> None:
    """Refuses a model that says embedding and head are one, and has a tensor for each.

    Which of both is loaded depends on the release of transformers.
    """
    if component.config.get("tie_word_embeddings") is not True or not is_embedding_of_head(name):
        return
    both = [each for each in tensors if is_embedding_of_head(each)]
    heads = [each for each in both if tied_embedding(each.removesuffix(".weight"), tensors)]
    if heads and len(both) > 1:
        problem = (
            f"tie_word_embeddings is true, and it has {' and '.join(sorted(both))}, one of which the "
            "adapter changes: which of them is used is not certain"
        )
        hint = "Load it with transformers and call save_pretrained, which writes one of them."
        raise UnusableBase(base.uri, problem, hint)


def _other_size(
    base: BaseModel, tensor: BaseTensor, what: str, wanted: Sequence[int]
) -> UnusableBase:
    problem = (
        f"{tensor.span.name} has shape {list(tensor.span.shape)}, and {what} needs {list(wanted)}"
    )
    return UnusableBase(base.uri, problem)
