"""The sample adapters as each tool reads them: the same numbers under three spellings.

PEFT reads the samples as they are. mergekit merges whole models; release 0.1.5 ends with a TypeError on
a bare BERT, so it gets the samples under Llama's names of modules with the same shapes. kohya's scripts
get them in kohya's layout.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LAYERS, HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 6, 384, 1536, 12, 64
# The modules of one BERT layer that the samples change, and Llama's modules of the same shapes.
AS_LLAMA = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
}
MODULE = re.compile(r"encoder\.layer\.(\d+)\.(.+)")

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Adapter:
    """One adapter in memory.

    Attributes:
        name: What its folder or file is called.
        pairs: A (r, d_in) and B (d_out, r) by BERT module, float32.
        alpha: lora_alpha.
        rslora: Whether the scaling is `alpha / sqrt(r)` instead of `alpha / r`.
        magnitudes: DoRA's magnitude vectors (d_out,) by module; empty for a LoRA.
    """

    name: str
    pairs: dict[str, tuple[Tensor, Tensor]]
    alpha: float
    rslora: bool = False
    magnitudes: Weights | None = None

    @property
    def rank(self) -> int:
        """Its rank, the same at all modules."""
        return len(next(iter(self.pairs.values()))[0])

    @property
    def scaling(self) -> float:
        """The factor on B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def updates(self, base: Weights) -> Weights:
        """What it adds to each weight, (d_out, d_in) in float64.

        Args:
            base: The base model's weights, which DoRA (arXiv 2402.09353, equation 5) depends on.
        """
        found = {}
        for module, (a, b) in self.pairs.items():
            update = self.scaling * b.double() @ a.double()
            if self.magnitudes:
                weight = base[module].double()
                changed = weight + update
                factor = self.magnitudes[module].double() / changed.norm(dim=1)
                update = factor[:, None] * changed - weight
            found[module] = update
        return found


def samples(folder: Path) -> list[Adapter]:
    """Reads PEFT adapters of one rank each, in the order of their names."""
    found = []
    for path in sorted(each.parent for each in folder.glob("*/adapter_config.json")):
        config = json.loads((path / "adapter_config.json").read_text())
        tensors = load_file(path / "adapter_model.safetensors")
        pairs = {
            key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (
                a,
                tensors[key.replace(".lora_A.", ".lora_B.")],
            )
            for key, a in tensors.items()
            if ".lora_A." in key
        }
        rslora = bool(config.get("use_rslora"))
        found.append(Adapter(path.name, pairs, config["lora_alpha"], rslora))
    return found


def without_some_modules(adapters: list[Adapter]) -> list[Adapter]:
    """The same, but every third adapter has attention only, and every third all but layer 0."""
    found = []
    for number, adapter in enumerate(adapters):
        keep = {
            module: pair
            for module, pair in adapter.pairs.items()
            if (number % 3 != 1 or ".attention." in module)
            and (number % 3 != 2 or ".layer.0." not in module)
        }
        found.append(replace(adapter, pairs=keep))
    return found


def with_a_dora(adapters: list[Adapter], base: Weights) -> list[Adapter]:
    """The same and one DoRA adapter: the first, with magnitudes some percent off the weights' norms."""
    generator = torch.Generator().manual_seed(1)
    magnitudes = {
        module: base[module].norm(dim=1)
        * (1 + 0.05 * torch.randn(len(base[module]), generator=generator))
        for module in adapters[0].pairs
    }
    return [*adapters, replace(adapters[0], name="the-eleventh", magnitudes=magnitudes)]


def many(adapters: list[Adapter], count: int) -> list[Adapter]:
    """Adapters of the shapes of the first with Gaussian weights."""
    generator = torch.Generator().manual_seed(2)
    return [
        replace(
            adapters[0],
            name=f"random-{number:03d}",
            pairs={
                module: (
                    0.02 * torch.randn(a.shape, generator=generator),
                    0.02 * torch.randn(b.shape, generator=generator),
                )
                for module, (a, b) in adapters[0].pairs.items()
            },
        )
        for number in range(count)
    ]


def base_weights() -> Weights:
    """Weights of the base model at the modules, random: no merge of LoRAs depends on them."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"intermediate.dense": (INTERMEDIATE, HIDDEN), "output.dense": (HIDDEN, INTERMEDIATE)}
    return {
        f"encoder.layer.{layer}.{name}": 0.02
        * torch.randn(shapes.get(name, (HIDDEN, HIDDEN)), generator=generator)
        for layer in range(LAYERS)
        for name in AS_LLAMA
    }


def write_bases(folder: Path, weights: Weights) -> None:
    """Saves the base model twice, as `bert` and as `llama`, with these weights at the modules."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    torch.manual_seed(4)
    bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=HEADS))
    bert.load_state_dict({f"{key}.weight": w for key, w in weights.items()}, strict=False)
    llama.load_state_dict({f"{llama_name(k)}.weight": w for k, w in weights.items()}, strict=False)
    bert.save_pretrained(folder / "bert")
    llama.save_pretrained(folder / "llama")


def llama_name(module: str) -> str:
    """A BERT module under Llama's name."""
    found = MODULE.fullmatch(module)
    assert found, module
    return f"model.layers.{found[1]}.{AS_LLAMA[found[2]]}"


def kohya_name(module: str) -> str:
    """A BERT module under a flattened name of Stable Diffusion's text encoder."""
    found = MODULE.fullmatch(module)
    assert found, module
    return f"lora_te_text_model_encoder_layers_{found[1]}_{AS_LLAMA[found[2]].replace('.', '_')}"


def write_peft(folder: Path, adapters: list[Adapter], base: Path, *, llama: bool) -> None:
    """Writes a folder of PEFT adapters, under BERT's names or Llama's."""
    for adapter in adapters:
        tensors: Weights = {}
        for module, (a, b) in adapter.pairs.items():
            key = f"base_model.model.{llama_name(module) if llama else module}"
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
            if adapter.magnitudes:
                tensors[f"{key}.lora_magnitude_vector"] = adapter.magnitudes[module]
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(base),
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "use_rslora": adapter.rslora,
            "use_dora": bool(adapter.magnitudes),
            "target_modules": [llama_name(m) if llama else m for m in adapter.pairs],
        }
        here = folder / adapter.name
        here.mkdir(parents=True)
        save_file(_apart(tensors), here / "adapter_model.safetensors", {"format": "pt"})
        (here / "adapter_config.json").write_text(json.dumps(config))


def write_kohya(folder: Path, adapters: list[Adapter]) -> None:
    """Writes a folder of kohya files; rsLoRA is written as the alpha that gives its scaling."""
    folder.mkdir(parents=True)
    for adapter in adapters:
        tensors: Weights = {}
        for module, (a, b) in adapter.pairs.items():
            key = kohya_name(module)
            alpha = torch.tensor(adapter.scaling * adapter.rank)
            tensors |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
            tensors[f"{key}.alpha"] = alpha
            if adapter.magnitudes:
                tensors[f"{key}.dora_scale"] = adapter.magnitudes[module][:, None]
        save_file(
            _apart(tensors),
            folder / f"{adapter.name}.safetensors",
            {"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora"},
        )


def _apart(tensors: Weights) -> Weights:
    return {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
