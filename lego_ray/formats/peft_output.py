"""The configuration of a merged adapter in PEFT's layout: known before a tensor is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def config_of(
    sites: Sequence[str],
    *,
    rank: int,
    patterns: Mapping[str, int],
    base_model: str,
    task_type: str | None,
    fan_in_fan_out: bool,
    modules_to_save: Sequence[str] | None = None,
    bias: str = "none",
) -> dict[str, object]:
    """The fields of `adapter_config.json`, as JSON values.

    Args:
        sites: Every site, sorted.
        rank: The adapter's rank.
        patterns: Ranks of sites that have another, by pattern; alpha is the rank everywhere.
        base_model: Copied to `base_model_name_or_path`.
        task_type: Copied, as are the others.
        fan_in_fan_out: Likewise.
        modules_to_save: Likewise.
        bias: Likewise.
    """
    return {
        "alpha_pattern": dict(patterns),
        "base_model_name_or_path": base_model or None,
        "bias": bias,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save) if modules_to_save else None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": dict(patterns),
        "target_modules": list(sites),
        "task_type": task_type,
        "use_dora": False,
        "use_rslora": False,
    }
