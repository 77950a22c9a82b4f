"""What vLLM and llama.cpp refuse or misread of PEFT's files: limits to know, not faults.

vLLM 0.33: `PEFTHelper` refuses any bias and `modules_to_save` except for classifier and score, which
releases before it refused too; its keys are factors, or embeddings under `base_layer`; the largest
`--max-lora-rank` is 512. llama.cpp's `convert_lora_to_gguf.py` stops at any tensor that is not a factor,
except for `base_layer.weight` and norms, and takes one `lora_alpha` for all sites, over each one's rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lego_ray.formats.factors import some
from lego_ray.formats.peft_keys import PREFIX, parse_factor
from lego_ray.formats.peft_parameters import BASE_LAYER, WRITTEN_FOR, split_base_layers
from lego_ray.formats.readers.outgoing import Finding, Outgoing

LARGEST_VLLM_RANK = 512


def findings(outgoing: Outgoing) -> Iterator[Finding]:
    """What the servers make of an output.

    Args:
        outgoing: It.
    """
    factors = {key: parse_factor(key) for key in outgoing.shapes}
    listed = outgoing.config.get("target_parameters")
    parameters = [str(name) for name in listed] if isinstance(listed, list) else []
    modules = {name.rpartition(".")[0] for name in parameters}
    ranks = {  # those of experts are not in the shapes
        outgoing.shapes[key][0]
        for key, f in factors.items()
        if f and f.half == "A" and split_base_layers(f.site)[0] not in modules
    } or {_rank_of(outgoing.config)}
    if parameters:
        yield Finding(
            f"parameters adapted by name, such as {parameters[0]}, rule out llama.cpp and releases of "
            f"PEFT before {WRITTEN_FOR}; vLLM and SGLang read them for some models only"
        )
    names = sorted(
        {
            key.removeprefix(PREFIX).rpartition(".")[0].removesuffix(f".{BASE_LAYER}")
            for key, factor in factors.items()
            if factor is None and not key.endswith(".bias")
        }
    )
    has_bias = outgoing.config.get("bias", "none") != "none" or bool(
        outgoing.config.get("lora_bias")
    )
    if names:
        inner = all(
            f".{BASE_LAYER}." in key
            for key, factor in factors.items()
            if factor is None and not key.endswith(".bias")
        )
        heads = not inner and all(
            part in ("classifier", "score") for part in _first_saved(outgoing, names)
        )
        text = f"weights kept whole ({some(names)}) rule out"
        if inner:
            yield Finding(f"{text} releases of vLLM that take factors alone")
        elif heads:
            yield Finding(f"{text} llama.cpp, and releases of vLLM that take factors alone")
        else:
            yield Finding(f"{text} vLLM and llama.cpp")
    if has_bias:
        yield Finding("kept biases rule out vLLM and llama.cpp")
    if ranks and max(ranks) > LARGEST_VLLM_RANK:
        yield Finding(
            f"rank {max(ranks)} rules out vLLM, whose largest --max-lora-rank is {LARGEST_VLLM_RANK}"
        )
    if len(ranks) > 1:
        yield Finding(
            f"ranks from {min(ranks)} to {max(ranks)} with patterns rule out llama.cpp, which scales "
            "all sites by one alpha, and releases of vLLM that read no patterns"
        )


def _rank_of(config: Mapping[str, object]) -> int:
    rank = config.get("r")
    return rank if isinstance(rank, int) else 0


def _first_saved(outgoing: Outgoing, names: list[str]) -> list[str]:
    """The entry of modules_to_save that each module is of; the module itself where there is none."""
    saved = outgoing.config.get("modules_to_save")
    listed = saved if isinstance(saved, list) else []
    return [next((m for m in listed if f".{m}." in f".{name}."), name) for name in names]
