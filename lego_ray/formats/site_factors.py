"""Where a site's factors lie in an adapter's files, and how a plain pair is made of them; no bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
        changed_at: On disk, the time of that file's last status change when it was scanned; else empty.
    """

    folder: str
    revision: str
    key: str
    version: str
    span: TensorSpan
    is_transposed: bool = False
    is_swapped: bool = False
    changed_at: str = field(default="", compare=False)

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
