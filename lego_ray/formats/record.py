"""What an adapter is, once its headers are read: frozen values, no bytes, no paths opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lego_ray.errors import redacted

if TYPE_CHECKING:
    from lego_ray.formats.differences import Difference

SiteKind = Literal["linear", "embedding", "conv", "parameter", "expert"]
# What an adapter's tensors at a site are, other than a pair of factors.
Form = Literal["loha", "lokr", "cp"]

# Bytes an element, for the dtypes an adapter may be stored in (safetensors' names).
DTYPE_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """Where one tensor's bytes lie in a weights file.

    Attributes:
        name: The tensor's key in the file.
        dtype: Safetensors' name of the element type, such as `F32` or `BF16`.
        shape: The stored shape.
        start: First byte, counted from the start of the file.
        end: One past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Where one expert's pair lies in tensors that hold the pairs of all experts.

    Attributes:
        experts: E, how many there are, at least 2.
        expert: Which of them it is, from 0.
        is_grouped: Whether the columns of B are those of expert 0, then those of expert 1, and so on,
            as the rows of A always are. PEFT stores first the column of rank 0 of every expert, then
            that of rank 1.
        is_swapped: Whether the stored A is the expert's B transposed, and the stored B its A.
    """

    experts: int
    expert: int
    is_grouped: bool = False
    is_swapped: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A module's own pair where a merge has the module as a part of a fused one.

    Attributes:
        factors: The module's pair.
        start: The row of the fused B at which its rows begin.
    """

    factors: SiteFactors
    start: int


@dataclass(frozen=True, slots=True)
class Expansion:
    """How a pair of plain factors is made of the tensors of another kind of adapter.

    Attributes:
        form: Which kind: LoHa, LoKr, or LoCon with a third factor between A and B.
        parts: Each tensor, after what the formula in `expansion` calls it, such as `w1_a`.
        d_out: Length of a column of the plain B.
        tail: The shape of one row of the plain A.
        divisor: The rank of the file, by which alpha is divided.
        work_bytes: Most memory that making the pair takes, apart from the pair.
    """

    form: Form
    parts: tuple[tuple[str, TensorSpan], ...]
    d_out: int
    tail: tuple[int, ...]
    divisor: int
    work_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BaseWeight:
    """Where a weight of a base model lies, or a factor that training began with.

    Attributes:
        folder: URI of the base model, or of the adapter as it was saved before training, at the commit
            where there is one.
        revision: That commit, or empty.
        key: Its weights file there.
        version: The store's mark of that file when it was scanned: that one is read, or nothing.
        span: The weight.
        is_transposed: Whether it is stored as (d_in, d_out).
        is_swapped: Whether the two halves of its rows stand the other way about than in the adapter.
    """

    folder: str
    revision: str
    key: str
    version: str
    span: TensorSpan
    is_transposed: bool = False
    is_swapped: bool = False

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.span.end - self.span.start


@dataclass(frozen=True, slots=True)
class Derived:
    """How a plain pair is computed from the stored pair and the base model's weight.

    Attributes:
        init: What training subtracted from the base model's weight before it began, such as `pissa`;
            empty for nothing.
        rank: The rank of the stored pair.
        scaling: The factor on the stored pair; that of the plain pair is 1.
        magnitude: The span of DoRA's magnitudes; None if it is not a DoRA.
        columns: How many magnitudes there are, if they are of the inputs (the columns of the weight);
            0 if they are of the outputs (its rows), d_out of them.
        epsilon: What DoRA adds to each length before it divides by it.
        alpha: As in `SiteFactors`, of the stored pair.
        scalar: As in `SiteFactors`, of the stored pair.
        weights: The base model's weight, or those whose rows one after another are it; empty until the
            base model is read.
        initial: A and B as they were before training, where they are known: their product is then what
            was subtracted. Else empty.
    """

    init: str
    rank: int
    scaling: float
    magnitude: TensorSpan | None = None
    columns: int = 0
    epsilon: float = 0.0
    alpha: TensorSpan | None = None
    scalar: TensorSpan | None = None
    weights: tuple[BaseWeight, ...] = ()
    initial: tuple[BaseWeight, ...] = ()

    @property
    def needs_base(self) -> bool:
        """Whether it is computed with the base model's weight, and not with initial factors alone."""
        return self.magnitude is not None or not self.initial

    def spans(self) -> Iterator[TensorSpan]:
        """Its tensors beside the factors."""
        for span in (self.alpha, self.scalar, self.magnitude):
            if span is not None:
                yield span

    @property
    def is_exact(self) -> bool:
        """Whether the plain pair is the same update, and not only the nearest of its rank."""
        return self.magnitude is None

    def work_bytes(self, d_in: int, d_out: int) -> int:
        """Most memory that computing the plain pair takes, apart from the stored weight.

        Args:
            d_in: Length of a row of A.
            d_out: Length of a column of B.
        """
        least = min(d_in, d_out)
        # In float64: the weight, what it becomes and a product; a Gram matrix, its vectors and LAPACK's.
        return 8 * (3 * d_in * d_out + 5 * least * least + 8 * self.rank * (d_in + d_out))


@dataclass(frozen=True, slots=True)
class SiteFactors:
    """One adapter's factor pair at one site, `dW = scaling * B A`.

    Attributes:
        site: The target module's path in the base model, without PEFT's prefix; of a parameter that is
            targeted by its name that path (`mlp.gate.weight`), and of an expert the number after it
            (`mlp.experts.down_proj.3`).
        kind: `linear` and `conv`: A is (r, d_in) once flattened, B is (d_out, r).
            `embedding`: A is (r, vocabulary), B is (dim, r). `parameter` and `expert`: as `linear`, in
            the orientation in which PEFT stores the parameter's factors.
        rank: r, at least 1.
        scaling: alpha / r, or alpha / sqrt(r) for rsLoRA; of no meaning where `alpha` is a tensor.
        a: The span of A; of an expansion, of a tensor that A is made of, and so is B.
        b: The span of B.
        alpha: The span of a number, read with the factors, whose value over `divisor` is the scaling;
            None where headers say it all.
        transposed: Whether A is stored as (d_in, r) and B as (r, d_out).
        kernel: Sizes of the kernel of a 1x1 convolution whose A is stored without them; else empty.
        rows: The rows of B that are this site's, where B is stored for several modules at once (a fused
            projection); None for all.
        is_swapped: Whether the two halves of B's rows stand the other way about than in the merge.
        grid: If the rows of B stand in another order than in the merge, (n, m): B has n groups of m
            parts of one size, and the merge has the first part of every group, then the second of each,
            and so on. `rows` and `is_swapped` are of the rows in that order. Else None.
        packed: Where the pair is in `a` and `b`, if they hold the pairs of all experts.
        diagonal: The span of a factor on each row of A, of shape (r, 1); None for none.
        blocks: Of a fused module that the adapter has as several: their pairs, in the order of B's rows.
            Their A are one after another and B is block-diagonal, so the rank is the sum of theirs;
            rows of B that are in no block are zero. `a` and `b` are then those of the first. Else empty.
        height: Rows of the fused B, if there are blocks.
        expansion: What A and B are made of, if they are not in the file; r is then the rank of what is
            made.
        scalar: The span of a number that the scaling is multiplied by; None for none.
        derived: How A and B are computed with the base model's weight, if they are; r is then the rank
            of what is computed.
        stated: The scaling that a configuration gives where `alpha` is a tensor too, which must agree;
            0 where it says nothing.
    """

    site: str
    kind: SiteKind
    rank: int
    scaling: float
    a: TensorSpan
    b: TensorSpan
    alpha: TensorSpan | None = None
    transposed: bool = False
    kernel: tuple[int, ...] = ()
    rows: tuple[int, int] | None = None
    is_swapped: bool = False
    grid: tuple[int, int] | None = None
    packed: Packed | None = None
    diagonal: TensorSpan | None = None
    blocks: tuple[Block, ...] = ()
    height: int = 0
    expansion: Expansion | None = None
    scalar: TensorSpan | None = None
    derived: Derived | None = None
    stated: float = 0.0

    def spans(self) -> Iterator[TensorSpan]:
        """Every tensor of the site, in the order to read them."""
        if self.blocks:
            for block in self.blocks:
                yield from block.factors.spans()
            return
        if self.expansion is None:
            yield self.a
            yield self.b
        else:
            yield from (span for _, span in self.expansion.parts)
        for more in (self.alpha, self.diagonal, self.scalar):
            if more is not None:
                yield more
        if self.derived is not None:
            yield from self.derived.spans()

    def parts(self) -> tuple[SiteFactors, ...]:
        """The pairs of its blocks, or itself where it is one pair."""
        return tuple(block.factors for block in self.blocks) if self.blocks else (self,)

    def base_weights(self) -> Iterator[BaseWeight]:
        """What it is computed with beside its own tensors: weights, and factors before training."""
        for each in self.parts():
            if each.derived is not None:
                yield from each.derived.weights
                yield from each.derived.initial

    @property
    def divisor(self) -> int:
        """What alpha is divided by: the rank that the file's own tensors have."""
        return self.rank if self.expansion is None else self.expansion.divisor

    @property
    def widened_bytes(self) -> int:
        """Most memory that decoding it takes: the pair in float32 twice, and what makes it."""
        more = 0 if self.expansion is None else self.expansion.work_bytes
        for each in self.parts():
            if each.derived is not None:
                own = 0 if each.expansion is None else each.expansion.work_bytes
                more = max(more, own + each.derived.work_bytes(each.d_in, each.whole_d_out))
        return 8 * self.rank * (self.d_in + self.d_out) + more

    @property
    def read_bytes(self) -> int:
        """Bytes of its tensors; of tensors that all experts share, an expert's part, rounded up."""
        whole = sum(span.end - span.start for span in self.spans())
        return whole if self.packed is None else -(-whole // self.packed.experts)

    @property
    def a_tail(self) -> tuple[int, ...]:
        """The shape of one row of A: (d_in,), or a convolution's (in/groups, kernel sizes)."""
        if self.packed is not None and self.packed.is_swapped:
            return self.b.shape[:1]
        if self.expansion is not None:
            return (*self.expansion.tail, *self.kernel)
        return self.a.shape[:1] if self.transposed else (*self.a.shape[1:], *self.kernel)

    @property
    def d_in(self) -> int:
        """Length of a row of A once flattened: a convolution's is in/groups * kernel sizes."""
        size = 1
        for n in self.a_tail:
            size *= n
        return size

    @property
    def d_out(self) -> int:
        """Length of a column of B."""
        if self.blocks:
            return self.height
        if self.rows is not None:
            return self.rows[1] - self.rows[0]
        return self.whole_d_out

    @property
    def whole_d_out(self) -> int:
        """Length of a column of B as it is stored, rows of other modules among them."""
        if self.expansion is not None:
            return self.expansion.d_out
        if self.packed is not None and self.packed.is_swapped:
            return self.a.shape[1]
        return self.b.shape[1] if self.transposed else self.b.shape[0]

    @property
    def b_dims(self) -> int:
        """Number of axes that B is stored with in a merge: 2, or a convolution's 3 to 5."""
        return len(self.a_tail) + 1 if self.kind == "conv" else 2


@dataclass(frozen=True, slots=True)
class AdapterHeaders:
    """One adapter as a scan finds it: what its layout's reader makes an `AdapterRecord` of.

    Attributes:
        uri: As in `AdapterRecord`, and so are the others of the same name.
        weights_key: Name of the weights file.
        weights: The weights file's own URI, for errors.
        spans: Its tensors, from `safetensors_header` or `torch_bin`.
        metadata: What its header says beside them.
        config: Bytes of the `adapter_config.json` beside it, or None if there is none.
        n_bytes: Size of the weights file.
        version: The store's mark of it.
        revision: Commit of a hub repository, or empty.
        adapter_id: From `formats.identity`.
        base_model: What the model card beside it names, or empty.
        license: From the model card.
        tags: From the model card.
        config_version: The store's mark of the configuration, or empty if there is none.
    """

    uri: str
    weights_key: str
    weights: str
    spans: tuple[TensorSpan, ...]
    metadata: Mapping[str, str]
    config: bytes | None
    n_bytes: int
    version: str
    revision: str
    adapter_id: str
    base_model: str = ""
    license: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    config_version: str = ""

    def record(
        self,
        *,
        format: str,
        base_model: str,
        sites: tuple[SiteFactors, ...],
        config: Mapping[str, object],
        full_weights: tuple[TensorSpan, ...] = (),
        differences: tuple[Difference, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> AdapterRecord:
        """The record of an adapter with these headers, any credentials in its texts left out.

        Args:
            format: Name of the layout, as in `LAYOUTS`.
            base_model: As in `AdapterRecord`.
            sites: Factor pairs, sorted by site.
            config: What a merged adapter takes over of the configuration.
            full_weights: As in `AdapterRecord`.
            differences: As in `AdapterRecord`.
            notes: What was set aside, in words.
        """
        return AdapterRecord(
            uri=self.uri,
            weights_key=self.weights_key,
            adapter_id=self.adapter_id,
            version=self.version,
            revision=self.revision,
            format=format,
            base_model=redacted(base_model),
            sites=sites,
            full_weights=full_weights,
            differences=differences,
            n_bytes=self.n_bytes,
            config=config,
            license=redacted(self.license),
            tags={key: redacted(value) for key, value in self.tags.items()},
            notes=notes,
            config_version=self.config_version,
        )


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter as its headers describe it.

    Attributes:
        uri: Where the adapter is: its directory, or its file, in layouts
            without a configuration.
        weights_key: Name of the weights file.
        adapter_id: Hex sha256 that identifies the content (see `formats.identity`).
        version: What the store says of the weights file's version (an ETag, a blob hash, size and
            time on disk): changes whenever the file is written again. It says when to look again, and
            is not part of the adapter's identity.
        revision: Commit of a hub repository, or empty.
        format: Name of the layout read, such as `peft`.
        base_model: The base model's name, as the adapter has it, or empty.
        sites: Factor pairs, sorted by site.
        full_weights: Spans of tensors that are not low-rank (`modules_to_save`, biases) and were
            kept on request; empty otherwise. What was dropped is in `notes`.
        differences: Tensors that are added to weights, biases and norms of the base model, and were
            summed, averaged or kept on request; empty otherwise.
        n_bytes: Size of the weights file.
        config: The parts of the adapter's configuration that a merged adapter takes over, as JSON
            values: of PEFT's `task_type`, `fan_in_fan_out`, `modules_to_save` and `bias`; of the
            others see their modules.
        license: License named by the model card, or empty.
        tags: Free key/value pairs: from its header, a hub's file beside it, its model card.
        notes: What was set aside in reading it, in words; empty for most.
        content: Hex sha256 over its tensors (see `sources.contents`), or empty if they were never
            read whole.
        config_version: What the store says of the configuration's version, as of the weights'; empty
            if there is none. Configuration and weights are one unit.
    """

    uri: str
    weights_key: str
    adapter_id: str
    version: str
    revision: str
    format: str
    base_model: str
    sites: tuple[SiteFactors, ...]
    full_weights: tuple[TensorSpan, ...]
    n_bytes: int
    config: Mapping[str, object] = field(default_factory=dict)
    license: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    content: str = ""
    config_version: str = ""
    differences: tuple[Difference, ...] = ()

    @property
    def folder(self) -> str:
        """The directory that the weights file is in; the URI is its own or that of the file."""
        return self.uri.removesuffix(f"/{self.weights_key}") or "/"

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each site, in site order."""
        return tuple(s.rank for s in self.sites)

    @property
    def n_params(self) -> int:
        """Number of LoRA parameters."""
        return sum(s.rank * (s.d_in + s.d_out) for s in self.sites)

    @property
    def dtype(self) -> str:
        """The element type that holds most of the parameters."""
        count: dict[str, int] = {}
        for s in self.sites:
            count[s.a.dtype] = count.get(s.a.dtype, 0) + s.rank * s.d_in
            count[s.b.dtype] = count.get(s.b.dtype, 0) + s.rank * s.d_out
        return max(sorted(count), key=lambda name: count[name]) if count else ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An adapter that was not taken.

    Attributes:
        uri: Where it is.
        status: `refused` (its headers say it cannot be merged) or `quarantined` (its weights do).
        reason: The error's class and message, as shown to the user.
        adapter_id: Its id, if its weights were read.
        version: The store's mark of them, as in `AdapterRecord`.
        content: As in `AdapterRecord`.
    """

    uri: str
    status: Literal["refused", "quarantined"]
    reason: str
    adapter_id: str = ""
    version: str = ""
    content: str = ""

    def as_json(self) -> dict[str, str]:
        """As records list it."""
        return {"adapter": self.uri, "reason": self.reason}


def sharing_sites(adapters: Iterable[AdapterRecord]) -> list[list[AdapterRecord]]:
    """Adapters in groups that have one tuple of sites, the same object, as a scan gives those alike.

    What depends on sites alone is then computed once a group. Adapters with equal sites may be in
    several groups.

    Args:
        adapters: In any order, which the groups and what is in them keep.
    """
    groups: dict[int, list[AdapterRecord]] = {}
    for adapter in adapters:
        groups.setdefault(id(adapter.sites), []).append(adapter)
    return list(groups.values())
