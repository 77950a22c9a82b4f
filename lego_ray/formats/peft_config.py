"""What an `adapter_config.json` of PEFT says of ranks and scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.peft_patterns import SitePattern, check_affordable, compile_patterns, lookup
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import unwrapped, without_doubt

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

# What PEFT takes where the file says nothing.
DEFAULT_RANK = 8
DEFAULT_ALPHA = 8

_BIASES = ("none", "all", "lora_only")
_FIX = "Correct the file, or save the adapter again with PEFT."


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The parts of a LoRA configuration that reading and merging need.

    Attributes:
        r: Rank where `rank_pattern` says nothing.
        lora_alpha: Alpha where `alpha_pattern` says nothing, above zero.
        use_rslora: Whether scaling is alpha / sqrt(r) instead of alpha / r.
        rank_pattern: Ranks by site pattern, in file order.
        alpha_pattern: Alphas by site pattern, in file order.
        base_model: `base_model_name_or_path`, or empty.
        task_type: Such as `CAUSAL_LM`, or None.
        fan_in_fan_out: Whether the base model stores its weights transposed. The factors are the
            same either way.
        bias: `none`, `all` or `lora_only`.
        modules_to_save: Modules whose full weights the adapter carries.
    """

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: tuple[SitePattern, ...]
    alpha_pattern: tuple[SitePattern, ...]
    base_model: str
    task_type: str | None
    fan_in_fan_out: bool
    bias: str
    modules_to_save: tuple[str, ...]

    def rank_of(self, site: str) -> int:
        """The rank configured for a site."""
        value = _value(self.rank_pattern, site)
        return self.r if value is None else int(value)

    def alpha_of(self, site: str) -> float:
        """The alpha configured for a site."""
        value = _value(self.alpha_pattern, site)
        return self.lora_alpha if value is None else value

    def check_affordable(self, sites: Collection[str], where: str) -> None:
        """Passes patterns that sites can be looked up in; see `peft_patterns.check_affordable`."""
        check_affordable(self.rank_pattern, sites, "rank_pattern", where)
        check_affordable(self.alpha_pattern, sites, "alpha_pattern", where)

    def scaling_of(self, site: str) -> float:
        """`s` in `dW = s B A`: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        rank = self.rank_of(site)
        return self.alpha_of(site) / (math.sqrt(rank) if self.use_rslora else rank)


def _value(patterns: tuple[SitePattern, ...], site: str) -> float | None:
    """What patterns say of a site; they may be older than a wrapper in its path."""
    value = lookup(patterns, site)
    plain = without_doubt(site)
    return lookup(patterns, plain) if value is None and plain != site else value


def parse_config(data: bytes, where: str) -> PeftConfig:
    """Reads a configuration file's bytes.

    Says nothing of whether the adapter can be merged; `formats.refusals` does.

    Args:
        data: The file's bytes.
        where: The file, for the error.

    Raises:
        MalformedAdapter: If it is not a JSON object, or a value is of the wrong type or range.
        UnsupportedAdapter: If a pattern could take for ever to match.
    """
    return config_from(parse_object(data, where), where)


def config_from(fields: Mapping[str, object], where: str) -> PeftConfig:
    """Reads a configuration that is parsed already; else see `parse_config`."""
    bias = _optional(fields, "bias", str, where) or "none"
    if bias not in _BIASES:
        raise _wrong("bias", bias, f"one of {', '.join(_BIASES)}", where)
    return PeftConfig(
        r=_rank(fields.get("r", DEFAULT_RANK), "r", where),
        lora_alpha=_alpha(fields.get("lora_alpha", DEFAULT_ALPHA), "lora_alpha", where),
        use_rslora=bool(_optional(fields, "use_rslora", bool, where)),
        rank_pattern=_patterns(fields, "rank_pattern", _rank, where),
        alpha_pattern=_patterns(fields, "alpha_pattern", _alpha, where),
        base_model=_optional(fields, "base_model_name_or_path", str, where) or "",
        task_type=_optional(fields, "task_type", str, where),
        fan_in_fan_out=bool(_optional(fields, "fan_in_fan_out", bool, where)),
        bias=bias,
        modules_to_save=tuple(map(unwrapped, _names(fields, "modules_to_save", where))),
    )


def _wrong(field: str, value: object, expected: str, where: str) -> MalformedAdapter:
    return MalformedAdapter(where, f"{field} is {str(value)[:80]!r}, expected {expected}", _FIX)


_T = TypeVar("_T", str, bool)


def _optional(fields: Mapping[str, object], name: str, kind: type[_T], where: str) -> _T | None:
    value = fields.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _wrong(name, value, f"a {kind.__name__} or null", where)


def _rank(value: object, field: str, where: str) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise _wrong(field, value, "a whole number of at least 1", where)
    return value


def _alpha(value: object, field: str, where: str) -> float:
    # Zero or less: the adapter would do nothing, or its scaling has no square root to fold in.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise _wrong(field, value, "a finite number above 0", where)
    return float(value)


def _patterns(
    fields: Mapping[str, object],
    name: str,
    check: Callable[[object, str, str], float],
    where: str,
) -> tuple[SitePattern, ...]:
    table = fields.get(name)
    if table is None:
        return ()
    if not isinstance(table, dict):
        raise _wrong(name, table, "an object or null", where)
    values = {key: check(value, f"{name}[{key!r}]", where) for key, value in table.items()}
    return compile_patterns(values, name, where)


def _names(fields: Mapping[str, object], name: str, where: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _wrong(name, value, "a list of names or null", where)
    return tuple(value)
