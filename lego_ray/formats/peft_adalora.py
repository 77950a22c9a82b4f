"""AdaLoRA in PEFT's files: `dW = alpha / (init_r + 1e-5) B diag(E) A`, a plain pair of B and diag(E) A.

As `AdaLoraLayer.get_delta_weight` has it (PEFT 0.3 to 0.21). `rank_pattern` there is a mask of the ranks
that were kept of `init_r`; the others are not in the file, and the scaling stays that of `init_r`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lego_ray.errors import MalformedAdapter, RankMismatch
from lego_ray.formats.factors import RESAVE, FactorKey, Pair, site_factors
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.formats.wrappers import unwrapped

KIND = "ADALORA"
# Fields of its configuration that a LoRA does not have.
FIELDS = frozenset(
    {
        *("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
        *("orth_reg_weight", "total_step"),
    }
)
DIAGONAL = re.compile(r"\.lora_E(\.[^.]+)?$")

_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<site>.+)\.lora_(?P<half>[ABE])(?:\.(?P<adapter>[^.]+))?"
)
_DEFAULT_RANK = 12
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class AdaLora:
    """What the configuration of one says of ranks.

    Attributes:
        init_r: The rank before any was cut.
        kept: Ranks by module, where some were cut.
    """

    init_r: int
    kept: Mapping[str, int]

    @classmethod
    def of(cls, fields: Mapping[str, object], where: str) -> AdaLora | None:
        """Reads it from a configuration; None from one of another method.

        Args:
            fields: The configuration, parsed.
            where: The configuration file, for the error.

        Raises:
            MalformedAdapter: If a value is of the wrong type or range.
        """
        if fields.get("peft_type") != KIND:
            return None
        init_r = fields.get("init_r", _DEFAULT_RANK)
        masks = fields.get("rank_pattern") or {}
        if type(init_r) is not int or not 1 <= init_r < 1 << 31:
            problem = f"init_r is {str(init_r)[:80]!r}, expected a whole number of at least 1"
            raise MalformedAdapter(where, problem, RESAVE)
        if not isinstance(masks, dict):
            problem = f"rank_pattern is {str(masks)[:80]!r}, expected an object or null"
            raise MalformedAdapter(where, problem, RESAVE)
        kept = {}
        for name, mask in masks.items():
            found = parse_key(unwrapped(name))
            if (
                found is None
                or not isinstance(mask, list)
                or any(type(m) is not bool for m in mask)
            ):
                problem = (
                    f"rank_pattern[{name[:80]!r}] is not a list of true and false for a lora_E"
                )
                raise MalformedAdapter(where, problem, RESAVE)
            kept[found.site] = sum(mask)
        return cls(init_r, kept)

    def as_lora(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The configuration with what a LoRA has of it.

        Args:
            fields: The configuration, parsed.
        """
        own = {*FIELDS, "rank_pattern", "alpha_pattern", "use_rslora"}
        return {
            **{name: value for name, value in fields.items() if name not in own},
            "peft_type": "LORA",
            "r": self.init_r,
        }

    def site(
        self, pair: Pair, diagonal: TensorSpan | None, alpha: float, where: str
    ) -> SiteFactors | None:
        """One site; None if no rank of it was kept.

        Args:
            pair: Its A and B.
            diagonal: Its E.
            alpha: `lora_alpha`.
            where: The weights file, for the error.

        Raises:
            RankMismatch: If the tensors do not have the rank that was kept.
            MalformedAdapter: If E is missing, or a shape is wrong.
        """
        wanted = self.kept.get(pair.site, self.init_r)
        shapes = (pair.a.shape[:1], pair.b.shape[1:])
        if wanted == 0 and shapes == ((0,), (0,)):
            return None
        if diagonal is None or diagonal.dtype not in (pair.a.dtype, pair.b.dtype):
            problem = f"{pair.site} has no diagonal lora_E of the type of its factors"
            raise MalformedAdapter(where, problem, RESAVE)
        found = site_factors(pair, scaling=alpha / (self.init_r + _EPSILON), where=where)
        if diagonal.shape != (found.rank, 1) or found.rank != wanted:
            problem = (
                f"{pair.site} has rank {found.rank} and a diagonal of shape {list(diagonal.shape)}, "
                f"its configuration keeps {wanted} ranks"
            )
            raise RankMismatch(where, problem, RESAVE)
        return SiteFactors(
            found.site, found.kind, found.rank, found.scaling, found.a, found.b, diagonal=diagonal
        )


def parse_key(key: str) -> FactorKey | None:
    """Reads the key of A, B or E; None for any other key."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    return FactorKey(found["site"], found["half"], adapter=found["adapter"] or "")
