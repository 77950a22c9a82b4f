"""From single factors to the pairs of sites: what the tensors of every layout must hold to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.refusals import SINGLORA
from lego_ray.formats.site_factors import DTYPE_BYTES, SiteFactors, SiteKind, TensorSpan

# A convolution of 1, 2 or 3 dimensions has two axes more.
_CONV_NDIMS = (3, 4, 5)

RESAVE = "Save the adapter again, or leave it out with --exclude."
GATHER = (
    "It was saved under DeepSpeed ZeRO-3 (or FSDP) without gathering the weights: save it again with "
    "stage3_gather_16bit_weights_on_model_save, or from the checkpoint with zero_to_fp32.py."
)


@dataclass(frozen=True, slots=True)
class FactorKey:
    """A key that names a factor.

    Attributes:
        site: The target module's path in the base model.
        half: `A` or `B`.
        is_embedding: Whether it is an embedding's factor.
        adapter: The adapter's name, in dumps that carry one; else empty.
    """

    site: str
    half: str
    is_embedding: bool = False
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two tensors of a site."""

    site: str
    is_embedding: bool
    a: TensorSpan
    b: TensorSpan


def pair(factors: Sequence[tuple[FactorKey, TensorSpan]], where: str) -> list[Pair]:
    """Pairs an adapter's factors, sorted by site.

    Args:
        factors: Every factor of the file.
        where: The weights file, for the error.

    Raises:
        MalformedAdapter: If there are none, or a site lacks one of the two or has one twice.
        UnsupportedAdapter: If they are of several adapters.
    """
    if not factors:
        raise MalformedAdapter(
            where, "it holds no factors of a LoRA (no lora_A, no lora_B)", RESAVE
        )
    if all(span.name.endswith(".lora_A") for _, span in factors):
        raise UnsupportedAdapter(where, f"{factors[0][1].name}: {SINGLORA.why}", SINGLORA.hint)
    adapters = sorted({key.adapter for key, _ in factors})
    if len(adapters) > 1:
        listed = ", ".join(name or "(unnamed)" for name in adapters)
        problem = f"it holds factors of several adapters: {listed}"
        hint = "Save each adapter to a directory of its own (PEFT: selected_adapters)."
        raise UnsupportedAdapter(where, problem, hint)
    halves: dict[str, dict[str, tuple[FactorKey, TensorSpan]]] = {}
    for key, span in factors:
        mine = halves.setdefault(key.site, {})
        if key.half in mine:
            problem = (
                f"{key.site} has two factors {key.half}, {mine[key.half][1].name} and {span.name}"
            )
            raise MalformedAdapter(where, problem, RESAVE)
        mine[key.half] = (key, span)
    out = []
    for site, found in sorted(halves.items()):
        if len(found) != 2 or found["A"][0].is_embedding != found["B"][0].is_embedding:
            problem = (
                f"{site} has no pair of factors, only {some([s.name for _, s in found.values()])}"
            )
            raise MalformedAdapter(where, problem, RESAVE)
        out.append(Pair(site, found["A"][0].is_embedding, found["A"][1], found["B"][1]))
    return out


def site_factors(
    pair: Pair,
    *,
    scaling: float | None,
    where: str,
    alpha: TensorSpan | None = None,
    transposed: bool = False,
    flat_b: bool = False,
) -> SiteFactors:
    """A site, its tensors' shapes and types checked.

    Args:
        pair: Its factors.
        scaling: Factor on B A; None for 1, alpha being the rank.
        where: The weights file, for the error.
        alpha: A tensor that holds alpha, and then decides.
        transposed: Whether A is stored as (d_in, r) and B as (r, d_out).
        flat_b: Whether B of a convolution may lack its kernel of 1x1, as some tools store it.

    Raises:
        RankMismatch: If the ranks of A and B differ.
        MalformedAdapter: If a shape is of no factor.
        UnsupportedAdapter: If a type or kind of layer is not merged.
    """
    site, a, b = pair.site, pair.a, pair.b
    for span in (a, b):
        check_dtype(span, where)
        if len(span.shape) < 2 or 0 in span.shape:
            problem = f"{span.name} has shape {list(span.shape)}, a factor has two sizes above zero"
            hint = GATHER if 0 in span.shape else RESAVE
            raise MalformedAdapter(where, problem, hint)
    is_conv = not pair.is_embedding and not transposed and len(a.shape) in _CONV_NDIMS
    kind: SiteKind = "embedding" if pair.is_embedding else "conv" if is_conv else "linear"
    is_flat_b = flat_b and is_conv and len(b.shape) == 2
    if (len(a.shape) != len(b.shape) and not is_flat_b) or (kind != "conv" and len(a.shape) != 2):
        problem = f"{site} has A of shape {list(a.shape)} and B of shape {list(b.shape)}"
        raise MalformedAdapter(where, problem, RESAVE)
    if any(n != 1 for n in b.shape[2:]):
        problem = f"{b.name} has shape {list(b.shape)}, expected a 1x1 kernel"
        raise UnsupportedAdapter(where, problem, RESAVE)
    rank, rank_b = (a.shape[1], b.shape[0]) if transposed else (a.shape[0], b.shape[1])
    if kind == "conv" and rank_b < rank and rank % rank_b == 0:
        groups = rank // rank_b
        problem = f"{site} is a convolution in {groups} groups, whose B sees {rank_b} ranks each"
        hint = "Train the adapter without grouped convolutions among its target_modules."
        raise UnsupportedAdapter(where, problem, hint)
    if rank != rank_b:
        problem = f"{site} has rank {rank} in A ({a.name}) and {rank_b} in B ({b.name})"
        raise RankMismatch(where, problem, RESAVE)
    return SiteFactors(
        site=site,
        kind=kind,
        rank=rank,
        scaling=1.0 if scaling is None else scaling,
        a=a,
        b=b,
        alpha=alpha,
        transposed=transposed,
    )


def check_dtype(span: TensorSpan, where: str) -> None:
    """Passes a tensor of an element type that is merged.

    Args:
        span: The tensor.
        where: The adapter, for the error.

    Raises:
        UnsupportedAdapter: Otherwise.
    """
    if span.dtype not in DTYPE_BYTES:
        problem = f"{span.name} is {span.dtype}, expected one of {', '.join(DTYPE_BYTES)}"
        hint = "Save the adapter again as float32."
        if span.dtype == "F64":
            hint = f"{hint[:-1]}; that rounds its values, which lego-ray does not do unasked."
        raise UnsupportedAdapter(where, problem, hint)


def refuse_unknown(names: Iterable[str], where: str) -> None:
    """Passes where there are no tensors left that were not understood.

    Args:
        names: Tensor keys that are left.
        where: The adapter, for the error.

    Raises:
        UnsupportedAdapter: Otherwise, naming some.
    """
    unknown = list(names)
    if unknown:
        problem = f"it holds tensors that are not part of a LoRA: {some(unknown)}"
        raise UnsupportedAdapter(where, problem, RESAVE)


def some(names: Sequence[str]) -> str:
    """The first few of some names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
