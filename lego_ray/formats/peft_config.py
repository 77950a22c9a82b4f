"""What an `adapter_config.json` of PEFT says of ranks and scaling."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import with_info_after_validator_function

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.forms import Form, Many, Table, null_is, other_than_0, read_as, sentence_of
from lego_ray.formats.peft_parameters import ruled_by
from lego_ray.formats.peft_patterns import (
    FIX,
    SitePattern,
    check_affordable,
    compile_patterns,
    lookup,
)
from lego_ray.formats.strict_json import parse_object
from lego_ray.formats.wrappers import unwrapped, without_doubt

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

# What PEFT takes where the file says nothing.
DEFAULT_RANK = 8
DEFAULT_ALPHA = 8


# With zero the adapter would do nothing. PEFT accepts a negative one, which subtracts the update.
_Alpha = Annotated[float, Field(gt=-1e30, lt=1e30), AfterValidator(other_than_0)]
_Rank = Annotated[int, Field(ge=1, lt=1 << 31)]
_Text = Annotated[str, null_is("")]
_Flag = Annotated[bool, null_is(False)]
_Name = Annotated[str, Field(min_length=1), AfterValidator(unwrapped)]


@dataclass(frozen=True)
class _Compiled:
    """Reads a table as patterns."""

    table: Any

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler.generate_schema(self.table)
        return with_info_after_validator_function(_compiled, schema)


def _compiled(
    table: Mapping[str, float] | None, field: ValidationInfo[str]
) -> tuple[SitePattern, ...]:
    return compile_patterns(table or {}, str(field.field_name), field.context)


class PeftConfig(Form):
    """The parts of a LoRA configuration that reading and merging need.

    Attributes:
        r: Rank where `rank_pattern` says nothing.
        lora_alpha: Alpha where `alpha_pattern` says nothing, not zero.
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

    r: _Rank = DEFAULT_RANK
    lora_alpha: _Alpha = DEFAULT_ALPHA
    use_rslora: _Flag = False
    rank_pattern: Annotated[tuple[SitePattern, ...], _Compiled(Table[_Rank] | None)] = ()
    alpha_pattern: Annotated[tuple[SitePattern, ...], _Compiled(Table[_Alpha] | None)] = ()
    base_model: _Text = Field("", alias="base_model_name_or_path")
    task_type: str | None = None
    fan_in_fan_out: _Flag = False
    bias: Annotated[Literal["none", "all", "lora_only"], null_is("none")] = "none"
    modules_to_save: Annotated[Many[_Name], null_is(())] = ()

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
    site = ruled_by(site)
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
    return read_as(
        PeftConfig, fields, lambda faults: MalformedAdapter(where, sentence_of(faults), FIX), where
    )
