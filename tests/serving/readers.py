"""How servers read an adapter, written from their source, for those too large to install with the tests.

vLLM and SGLang need a GPU build of torch, and llama.cpp's converter and ComfyUI are not packages. Each
function names the release and the files that it restates, and raises what they raise. Nothing here uses
lego_ray. llama.cpp's names of tensors and its file format are the real ones, of its package `gguf`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Deltas = dict[str, np.ndarray]
_FACTOR = re.compile(r"(?P<site>.+)\.lora_(?P<half>[AB])\.weight")
_PREFIX = "base_model.model."


def config_of(merged: Path) -> dict[str, Any]:
    """The configuration of an adapter of PEFT's layout."""
    return dict(json.loads((merged / "adapter_config.json").read_text()))


def by_vllm(merged: Path, modules: Iterable[str], max_lora_rank: int = 16) -> Deltas:
    """The updates that vLLM 0.33 adds.

    `vllm/lora/peft_helper.py` (PEFTHelper: validate_legal, get_rank_and_scaling), `vllm/lora/utils.py`
    (parse_fine_tuned_lora_name) and `vllm/lora/lora_model.py` (from_local_checkpoint).

    Args:
        merged: The adapter.
        modules: Last parts of the names of the modules that the model lets a LoRA adapt.
        max_lora_rank: As `--max-lora-rank`.

    Raises:
        ValueError: If vLLM refuses it.
    """
    config = config_of(merged)
    patterns = {name: config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    unsupported = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication")
    faults = [name for name in (*unsupported, "use_bdlora", "use_qalora") if config.get(name)]
    init = config.get("init_lora_weights", True)
    learned = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
    if isinstance(init, str) and init.lower() not in learned:
        faults.append(f"init_lora_weights {init}")
    saved = config.get("modules_to_save") or []
    faults += [f"modules_to_save {m}" for m in saved if m not in ("classifier", "score")]
    rank = max([config["r"], *patterns["rank_pattern"].values()])
    if rank > max_lora_rank:
        faults.append(f"rank {rank} is above max_lora_rank {max_lora_rank}")
    if config.get("bias", "none") != "none":
        faults.append("bias")
    if faults:
        raise ValueError(", ".join(faults))

    def matching(pattern: Mapping[str, float], site: str, default: float) -> float:
        found = (v for key, v in pattern.items() if re.match(rf"(.*\.)?({key})$", site))
        return next(found, default)

    pairs = _pairs(load_file(merged / "adapter_model.safetensors"))
    unexpected = [site for site in pairs if site.rpartition(".")[2] not in set(modules)]
    if unexpected:
        raise ValueError(f"expected {modules}, received {unexpected}")
    scales = {
        site: matching(patterns["alpha_pattern"], site, config["lora_alpha"])
        / matching(patterns["rank_pattern"], site, config["r"]) ** _power(config)
        for site in pairs
    }
    return {site: scales[site] * _product(*pair) for site, pair in pairs.items()}


def by_sglang(merged: Path, layers: int) -> Deltas:
    """The updates that SGLang 0.5.23 adds.

    `sglang/srt/lora/lora_config.py`, `sglang/srt/lora/lora.py` (scaling, normalize_qkv_proj) and
    `sglang/srt/lora/mem_pool.py` (load_lora_weight_to_buffer, which asserts each shape by `r`).

    Raises:
        AssertionError: If it is of another kind, or a module has another rank than `r`.
        KeyError: If a layer adapts `q_proj` and not `v_proj`.
    """
    config = config_of(merged)
    assert config["peft_type"].lower() == "lora"
    scaling = config["lora_alpha"] / config["r"]
    tensors = load_file(merged / "adapter_model.safetensors")
    pairs = _pairs(tensors)
    for site, (a, b) in pairs.items():
        assert (len(a), b.shape[1]) == (config["r"], config["r"]), site
    for layer in range(layers):
        weights = {key: t for key, t in tensors.items() if f".layers.{layer}." in key}
        has_k = any("k_proj" in key for key in weights)
        for key in [key for key in weights if "q_proj" in key]:
            for other in ("k_proj", "v_proj") if has_k else ("v_proj",):
                weights[key.replace("q_proj", other)]
    return {site: scaling * _product(*pair) for site, pair in pairs.items()}


def to_gguf(merged: Path, file: Path, layers: int, arch: gguf.MODEL_ARCH) -> None:
    """Converts as llama.cpp's `convert_lora_to_gguf.py` of 2026 does for models that permute nothing.

    Raises:
        ValueError: At a tensor that is no factor, or a module that the model does not have; the
            converter exits or raises there.
    """
    config = config_of(merged)
    names = gguf.get_tensor_name_map(arch, layers)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    for site, (a, b) in _pairs(load_file(merged / "adapter_model.safetensors")).items():
        name = names.get_name(f"{site}.weight", try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"Can not map tensor {site}")
        writer.add_tensor(f"{name}.lora_a", a.float().numpy())
        writer.add_tensor(f"{name}.lora_b", b.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(file: Path) -> Deltas:
    """The updates that llama.cpp adds: `src/llama-adapter.h`, alpha over each module's rank."""
    reader = gguf.GGUFReader(file)
    alpha = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    assert alpha is not None
    halves = {tensor.name: np.array(tensor.data, np.float64) for tensor in reader.tensors}
    stems = {name.removesuffix(".lora_a") for name in halves if name.endswith(".lora_a")}
    assert {f"{stem}.lora_{half}" for stem in stems for half in "ab"} == set(halves)
    return {
        stem: float(alpha.contents())
        / len(halves[f"{stem}.lora_a"])
        * (halves[f"{stem}.lora_b"] @ halves[f"{stem}.lora_a"])
        for stem in stems
    }


def by_comfyui(file: Path, modules: Iterable[str], prefix: str) -> Deltas:
    """The updates that ComfyUI adds, all keys of the file used.

    `comfy/lora.py` (load_lora, which logs "lora key not loaded" for the rest; model_lora_keys_unet,
    which maps `diffusion_model.PATH`, and `lora_unet_PATH` with underscores) and
    `comfy/weight_adapter/lora.py` (alpha over the rank, 1 without an alpha).

    Args:
        file: The LoRA.
        modules: Paths of the modules of the model.
        prefix: What the names of its modules begin with: `diffusion_model.` or `lora_unet_`.

    Raises:
        AssertionError: If ComfyUI would not load a key.
    """
    tensors = load_file(file)
    loaded: set[str] = set()
    out = {}
    for path in modules:
        stem = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
        for up, down in ((".lora_up", ".lora_down"), (".lora_B", ".lora_A")):
            keys = (f"{stem}{down}.weight", f"{stem}{up}.weight")
            if keys[1] not in tensors:
                continue
            a, b = (tensors[key] for key in keys)
            loaded |= {*keys, *({f"{stem}.alpha"} & tensors.keys())}
            alpha = tensors.get(f"{stem}.alpha")
            out[path] = (1.0 if alpha is None else alpha.item() / len(a)) * _product(a, b)
    assert loaded == tensors.keys(), f"lora key not loaded: {sorted(tensors.keys() - loaded)}"
    return out


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        factor = _FACTOR.fullmatch(key.removeprefix(_PREFIX))
        if factor is None:
            raise ValueError(f"{key} is not a factor")
        halves[factor["site"]][factor["half"]] = tensor
    return {site: (found["A"], found["B"]) for site, found in halves.items()}


def _power(config: Mapping[str, Any]) -> float:
    return 0.5 if config.get("use_rslora") else 1.0


def _product(a: Tensor, b: Tensor) -> np.ndarray:
    product: np.ndarray = (b.to(torch.float64).flatten(1) @ a.to(torch.float64).flatten(1)).numpy()
    return product
