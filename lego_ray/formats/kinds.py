"""Tensors of LoHa, LoKr and CP-decomposed LoCon to sites: what their shapes must hold to.

The formulas are those of LyCORIS and PEFT, which write these kinds; `expansion` has the arithmetic. All
three are sums of rank-one terms, so each is a pair of plain factors of a higher rank, exactly.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lego_ray.errors import MalformedAdapter, RankMismatch, UnsupportedAdapter
from lego_ray.formats.factors import RESAVE, Pair, check_dtype, some
from lego_ray.formats.module_names import flattened
from lego_ray.formats.site_factors import Expansion, Form, SiteFactors, TensorSpan

# What the kinds are called in words.
NAMES: Mapping[Form, str] = {"loha": "LoHa", "lokr": "LoKr", "cp": "CP-decomposed LoCon"}

# Ends of their keys, as a regular expression.
ENDS = r"\.(?:hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|lora_mid\.weight)"
_KEY = re.compile(
    r"(?P<stem>.+)\.(?:(?:(?P<form>hada|lokr)_(?P<part>w[12](?:_[ab])?|t[12]))(?:\.[^.]+)?"
    r"|(?P<mid>lora_mid)\.weight|(?P<scalar>scalar))"
)

# Largest rank of a plain pair that stands for another kind, and longest side: no layer of a model that
# has adapters of these kinds is wider, and a few small tensors could ask for any amount of memory.
MAX_RANK = 8192
MAX_SIDE = 1 << 22
_EXTRACT = (
    "Merge it into its base model and extract a plain LoRA from the difference, with the tool that "
    "trained it."
)

# Convolutions of UNets, of which LoHa and LoKr keep the factors without the kernel's sizes.
_UNET = (
    r"(?:lora_unet_|unet_|diffusion_model_)?(?:down_blocks|mid_block|up_blocks|input_blocks|"
    r"middle_block|output_blocks)_(?:\w+_)?"
)
_KERNELS: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = (
    (
        re.compile(
            rf"{_UNET}(?:resnets_\d+_conv[12]|in_layers_2|out_layers_3|"
            r"(?:down|up)samplers_\d+_conv|\d+_\d+_(?:op|conv))"
        ),
        (3, 3),
    ),
    (re.compile(rf"{_UNET}(?:resnets_\d+_conv_shortcut|skip_connection)"), (1, 1)),
)
# A module's own name that says it is a convolution.
_CONVOLUTION = re.compile(r"conv(?:\d|_in|_out)?(?:\.\d+)?$")


@dataclass(frozen=True, slots=True)
class KindKey:
    """A key of one of these kinds.

    Attributes:
        stem: What stands before the suffix: a module, as the file has it.
        form: Which kind; empty for a scalar, which is of any.
        part: What `expansion` calls the tensor.
    """

    stem: str
    form: Form | str
    part: str


@dataclass(slots=True)
class Parts:
    """The tensors of these kinds in a file, by site.

    Attributes:
        forms: The kind of each site that has one.
        spans: Tensors of each site, by part.
        scalars: The number that each site's scaling is multiplied by, where there is one.
    """

    forms: dict[str, Form] = field(default_factory=dict)
    spans: dict[str, dict[str, TensorSpan]] = field(
        default_factory=lambda: defaultdict[str, dict[str, TensorSpan]](dict)
    )
    scalars: dict[str, TensorSpan] = field(default_factory=dict)

    def add(self, site: str, key: KindKey, span: TensorSpan, where: str) -> None:
        """Takes a tensor in.

        Args:
            site: Its site.
            key: What its key says.
            span: The tensor.
            where: The weights file, for the error.

        Raises:
            MalformedAdapter: If the site has it already, or is of another kind.
        """
        mine = {"scalar": self.scalars[site]} if site in self.scalars else {}
        mine = mine if key.part == "scalar" else self.spans[site]
        if key.part in mine:
            problem = f"{site} has one tensor twice, {mine[key.part].name} and {span.name}"
            raise MalformedAdapter(where, problem, RESAVE)
        if key.part == "scalar":
            self.scalars[site] = span
            return
        form: Form = "loha" if key.form == "loha" else "lokr" if key.form == "lokr" else "cp"
        if self.forms.setdefault(site, form) != form:
            other = next(iter(mine.values())).name
            problem = f"{site} is of two kinds, by {other} and {span.name}"
            raise MalformedAdapter(where, problem, RESAVE)
        mine[key.part] = span


def parse_kind(key: str) -> KindKey | None:
    """Takes a key of one of these kinds apart; None for any other key."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    if found["scalar"]:
        return KindKey(found["stem"], "", "scalar")
    if found["mid"]:
        return KindKey(found["stem"], "cp", "mid")
    is_loha = found["form"] == "hada"
    if is_loha and re.fullmatch(r"w[12]", found["part"]):
        return None
    if not is_loha and found["part"] == "t1":
        return None
    return KindKey(found["stem"], "loha" if is_loha else "lokr", found["part"])


def expanded_site(
    site: str,
    form: Form,
    parts: Mapping[str, TensorSpan],
    where: str,
    *,
    of_peft: bool = False,
) -> SiteFactors:
    """A site of one of these kinds as a pair of plain factors, its tensors' shapes and types checked.

    Args:
        site: The site.
        form: The kind.
        parts: Its tensors; of a LoCon `up` and `down` too.
        where: The weights file, for the error.
        of_peft: Whether PEFT wrote it, which stores 1-D convolutions as 2-D ones.

    Returns:
        The site with scaling 1, of the rank that the kind takes.

    Raises:
        MalformedAdapter: If a tensor is missing, or shapes do not fit.
        RankMismatch: If the ranks of tensors differ.
        UnsupportedAdapter: If a type is not merged, or the exact rank or a side is beyond bounds.
    """
    for span in parts.values():
        check_dtype(span, where)
        if len(span.shape) < 2 or 0 in span.shape:
            problem = (
                f"{site} is a {NAMES[form]} whose {span.name} has shape {list(span.shape)}, expected "
                "two sizes above zero"
            )
            raise MalformedAdapter(where, problem, RESAVE)
    reader = {"loha": _loha, "lokr": _lokr, "cp": _cp}[form]
    shape = reader(_Reading(site, form, parts, where, of_peft))
    tail = _conv_tail(site, shape.tail)
    d_in = math.prod(tail)
    _check_bounds(site, form, shape.rank, max(d_in, shape.d_out), where)
    ordered = tuple(sorted(parts.items()))
    expansion = Expansion(form, ordered, shape.d_out, tail, shape.divisor, shape.work_bytes)
    return SiteFactors(
        site=site,
        kind="conv" if len(tail) > 1 else "linear",
        rank=shape.rank,
        scaling=1.0,
        a=parts[shape.a],
        b=parts[shape.b],
        expansion=expansion,
    )


def folded_pair(pair: Pair, parts: Mapping[str, TensorSpan], where: str) -> SiteFactors:
    """The site of a pair of factors with a third between them; else see `expanded_site`."""
    return expanded_site(pair.site, "cp", {**parts, "down": pair.a, "up": pair.b}, where)


def has_alpha(site: SiteFactors) -> bool:
    """Whether alpha counts: in a LoKr of two whole matrices there is no rank to divide it by."""
    return site.expansion is None or site.expansion.divisor > 0


def note_of(sites: Iterable[SiteFactors]) -> tuple[str, ...]:
    """What to tell of sites that are of these kinds, one sentence a kind without its full stop."""
    ranks: dict[Form, list[int]] = defaultdict(list)
    for site in sites:
        if site.expansion is not None and site.derived is None:
            ranks[site.expansion.form].append(site.rank)
    notes = []
    for form, found in sorted(ranks.items()):
        low, high = min(found), max(found)
        modules = f"{len(found)} modules are" if len(found) > 1 else "1 module is"
        rank = str(low) if low == high else f"{low} to {high}"
        notes.append(
            f"{modules} {NAMES[form]}: merged as the plain LoRA of rank {rank} that is the same update"
        )
    return tuple(notes)


def kinds_in(sites: Iterable[Iterable[SiteFactors]]) -> str:
    """Which adapters of some are of these kinds, and the ranks they count with, in words; may be empty.

    Args:
        sites: The sites of each adapter.
    """
    ranks: dict[Form, list[int]] = defaultdict(list)
    counts: Counter[Form] = Counter()
    for mine in sites:
        found = [(s.expansion.form, s.rank) for s in mine if s.expansion and s.derived is None]
        counts.update({form for form, _ in found})
        for form, rank in found:
            ranks[form].append(rank)
    said = []
    for form, count in sorted(counts.items()):
        low, high = min(ranks[form]), max(ranks[form])
        counted = f"rank {low}" if low == high else f"ranks {low} to {high}"
        are = "1 adapter is a" if count == 1 else f"{count} adapters are"
        said.append(f"{are} {NAMES[form]}, which counts with {counted} as a plain LoRA")
    return "; ".join(said)


def note_of_flat(sites: Iterable[SiteFactors]) -> tuple[str, ...]:
    """What to tell of convolutions whose kernel nothing in the file says, without its full stop."""
    flat = [site.site for site in sites if is_flat_convolution(site)]
    if not flat:
        return ()
    return (
        f"it does not say the kernel of {some(flat)}; unless another adapter does, it is written as a "
        "linear layer, which ComfyUI loads and others may not",
    )


SCALARS = (
    "its numbers called .scalar are multiplied in, as its trainer does; ComfyUI and others leave them "
    "out"
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the shapes of a site's tensors come to: `a` and `b` are parts that stand for A and B."""

    rank: int
    d_out: int
    tail: tuple[int, ...]
    divisor: int
    a: str
    b: str
    work_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One low-rank part of a kind, or one whole matrix (with divisor 0)."""

    rank: int
    rows: int
    tail: tuple[int, ...]
    divisor: int
    work_bytes: int

    @property
    def columns(self) -> int:
        return math.prod(self.tail)


@dataclass(frozen=True, slots=True)
class _Reading:
    site: str
    form: Form
    parts: Mapping[str, TensorSpan]
    where: str
    of_peft: bool

    def shape(self, part: str) -> tuple[int, ...]:
        if part not in self.parts:
            held = ", ".join(span.name for span in self.parts.values())
            problem = f"{self.site} is a {NAMES[self.form]} and lacks its {part}; it has {held}"
            raise MalformedAdapter(self.where, problem, RESAVE)
        return self.parts[part].shape

    def differ(self, *names: str) -> MalformedAdapter:
        """That tensors do not fit together."""
        listed = " and ".join(
            f"{self.parts[name].name} {list(self.parts[name].shape)}" for name in names
        )
        problem = f"{self.site} is a {NAMES[self.form]} whose {listed} do not fit together"
        return MalformedAdapter(self.where, problem, RESAVE)

    def decomposed(self, name: str, core: str) -> _Part:
        """A part of two factors; or three, the first two as (r, d_out) and (r, d_in)."""
        up, down = self.shape(f"{name}_a"), self.shape(f"{name}_b")
        if len(up) != 2:
            raise self.differ(f"{name}_a", f"{name}_b")
        if core not in self.parts:
            if up[1] != down[0]:
                raise self._ranks(f"{name}_a", up[1], f"{name}_b", down[0])
            tail = down[1:]
            return _Part(up[1], up[0], tail, down[0], 4 * (math.prod(up) + math.prod(down)))
        kernel = self.shape(core)
        if len(kernel) < 3 or len(down) != 2 or kernel[:2] != (up[0], down[0]):
            raise self.differ(core, f"{name}_a", f"{name}_b")
        tail = (down[1], *kernel[2:])
        if self.of_peft and len(kernel) == 4 and kernel[3] == 1:
            tail = tail[:-1]
        # Both in float64, the product too, and once more in float32.
        work = 12 * (math.prod(kernel) + math.prod(down)) + 12 * up[0] * math.prod(tail)
        return _Part(up[0], up[1], tail, down[0], work)

    def _ranks(self, one: str, rank: int, two: str, other: int) -> RankMismatch:
        problem = (
            f"{self.site} is a {NAMES[self.form]} that has rank {rank} in {self.parts[one].name} and "
            f"{other} in {self.parts[two].name}"
        )
        return RankMismatch(self.where, problem, RESAVE)

    def kronecker(self, name: str, core: str) -> _Part:
        """A part of a Kronecker product, whole or in factors."""
        if name not in self.parts:
            part = self.decomposed(name, core)
            if part.rank <= min(part.rows, part.columns):
                return part
            whole = 20 * part.rows * part.columns + 8 * part.rank * (part.rows + part.columns)
            rank = min(part.rows, part.columns)
            return _Part(rank, part.rows, part.tail, part.divisor, part.work_bytes + whole)
        if any(other in self.parts for other in (f"{name}_a", f"{name}_b")):
            problem = (
                f"{self.site} is a {NAMES[self.form]} that has {self.parts[name].name} whole and in "
                "factors too"
            )
            raise MalformedAdapter(self.where, problem, RESAVE)
        shape = self.shape(name)
        rank = min(shape[0], math.prod(shape[1:]))
        return _Part(rank, shape[0], shape[1:], 0, 4 * (math.prod(shape) + rank * rank))


def _loha(reading: _Reading) -> _Shape:
    if ("t1" in reading.parts) != ("t2" in reading.parts):
        reading.shape("t1"), reading.shape("t2")
    one, two = reading.decomposed("w1", "t1"), reading.decomposed("w2", "t2")
    if (one.rows, one.tail) != (two.rows, two.tail):
        raise reading.differ("w1_a", "w1_b", "w2_a", "w2_b")
    rank, most = one.rank * two.rank, min(one.rows, one.columns)
    work = one.work_bytes + two.work_bytes
    if rank > most:  # both products in float64, one in float32 too, and what they are made of
        ranks = one.rank + two.rank
        work += 20 * one.rows * one.columns + 8 * ranks * (one.rows + one.columns) + 4 * most**2
    return _Shape(min(rank, most), one.rows, one.tail, one.divisor, "w1_b", "w1_a", work)


def _lokr(reading: _Reading) -> _Shape:
    if "t2" in reading.parts and "w2" in reading.parts:
        raise reading.differ("t2", "w2")
    one, two = reading.kronecker("w1", ""), reading.kronecker("w2", "t2")
    if len(one.tail) != 1:
        problem = (
            f"the first part of {reading.site}, a LoKr, has {len(one.tail) + 1} axes, expected 2"
        )
        raise MalformedAdapter(reading.where, problem, RESAVE)
    if one.divisor and two.divisor and one.divisor != two.divisor:
        raise reading._ranks("w1_b", one.divisor, "w2_b", two.divisor)
    if reading.of_peft and "w2" in reading.parts and len(two.tail) == 2:
        problem = (
            f"{reading.site} is a LoKr of a 1-D convolution with lokr_w2 whole, of which PEFT mixes "
            "the axes up"
        )
        raise UnsupportedAdapter(reading.where, problem, _EXTRACT)
    tail = (one.tail[0] * two.tail[0], *two.tail[1:])
    a = "w2" if "w2" in reading.parts else "w2_b"
    b = "w1" if "w1" in reading.parts else "w1_a"
    rank, d_out = one.rank * two.rank, one.rows * two.rows
    # A Kronecker product is made once with its axes apart, and once more with them together.
    work = one.work_bytes + two.work_bytes + 4 * rank * max(d_out, math.prod(tail))
    return _Shape(rank, d_out, tail, two.divisor or one.divisor, a, b, work)


def _cp(reading: _Reading) -> _Shape:
    up, down, mid = (reading.shape(name) for name in ("up", "down", "mid"))
    if any(n != 1 for n in (*up[2:], *down[2:])) or len(mid) < 3:
        raise reading.differ("up", "down", "mid")
    if mid[:2] != (up[1], down[0]) or up[1] != down[0]:
        problem = (
            f"{reading.site} is a {NAMES[reading.form]} that has rank {down[0]} in "
            f"{reading.parts['down'].name}, {list(mid[:2])} in {reading.parts['mid'].name} and {up[1]} "
            f"in {reading.parts['up'].name}"
        )
        raise RankMismatch(reading.where, problem, RESAVE)
    tail = (down[1], *mid[2:])
    work = 12 * (math.prod(mid) + math.prod(down)) + 12 * up[1] * math.prod(tail)
    return _Shape(up[1], up[0], tail, down[0], "down", "up", work)


def _conv_tail(site: str, tail: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a row of A, that of a convolution whose name says the kernel's sizes."""
    if len(tail) > 1:
        return tail
    name = flattened(site)
    for pattern, kernel in _KERNELS:
        size = math.prod(kernel)
        if pattern.fullmatch(name) and tail[0] % size == 0:
            return (tail[0] // size, *kernel)
    return tail


def is_flat_convolution(site: SiteFactors) -> bool:
    """Whether a site's name is a convolution's, and its tensors say nothing of the kernel."""
    return (
        site.expansion is not None
        and len(site.a_tail) == 1
        and _CONVOLUTION.search(site.site) is not None
    )


def _check_bounds(site: str, form: Form, rank: int, side: int, where: str) -> None:
    if side > MAX_SIDE:
        problem = f"{site} is a {NAMES[form]} of a layer {side} wide, more than {MAX_SIDE}"
        raise UnsupportedAdapter(where, problem, RESAVE)
    if rank > MAX_RANK:
        problem = (
            f"{site} is a {NAMES[form]} whose exact rank is {rank}, more than the {MAX_RANK} that one "
            "adapter may take"
        )
        raise UnsupportedAdapter(where, problem, _EXTRACT)
