"""Zoos of tiny PEFT adapters, drawn at random over models, types, alphas and ranks.

PEFT saves each adapter, loads it again and says what its update is, from factors in float64; nothing of
lego_ray computes it. A merge is loaded by PEFT into the same model.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import lego_ray
from tests.image_zoo import Updates

UNTYPED: Any = transformers
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ALPHAS = ("alpha", "rsLoRA", "alpha_pattern", "both")
RANKS = ("one", "rank_pattern")


@dataclass(frozen=True)
class Kind:
    """A model, and its modules that adapters are on.

    Attributes:
        model: Makes a tiny one.
        modules: Ends of their names.
        options: Of each adapter's configuration.
    """

    model: Callable[[], nn.Module]
    modules: tuple[str, ...]
    options: Mapping[str, Any]


_SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_LLAMA: dict[str, Any] = {**_SIZES, "intermediate_size": 24, "num_key_value_heads": 1}
_T5: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24}
_T5 |= {"num_layers": 2, "num_heads": 2}
_VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_VIT |= {"intermediate_size": 24, "image_size": 8, "patch_size": 4}
_MAMBA: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
_MAMBA |= {"state_size": 4}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def _of(model: str, config: str, **fields: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = getattr(UNTYPED, model)(getattr(UNTYPED, config)(**fields))
        return made

    return make


KINDS: Mapping[str, Kind] = {
    "Llama": Kind(
        _of("LlamaForCausalLM", "LlamaConfig", **_LLAMA, tie_word_embeddings=False),
        (*_ATTENTION, *_MLP, "embed_tokens", "lm_head"),
        {"task_type": "CAUSAL_LM"},
    ),
    "Qwen 2": Kind(  # whose projections have biases
        _of("Qwen2ForCausalLM", "Qwen2Config", **_LLAMA),
        (*_ATTENTION, *_MLP),
        {"task_type": "CAUSAL_LM"},
    ),
    "Qwen 3": Kind(
        _of("Qwen3ForCausalLM", "Qwen3Config", **_LLAMA, head_dim=12),
        (*_ATTENTION, *_MLP),
        {},
    ),
    "Gemma 2": Kind(
        _of("Gemma2ForCausalLM", "Gemma2Config", **_LLAMA, head_dim=8),
        (*_ATTENTION, *_MLP, "embed_tokens"),
        {"task_type": "CAUSAL_LM"},
    ),
    "GPT-2": Kind(  # whose layers are transposed
        _of("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=2, n_head=2, vocab_size=40),
        ("c_attn", "attn.c_proj", "mlp.c_proj", "c_fc"),
        {"fan_in_fan_out": True, "task_type": "CAUSAL_LM"},
    ),
    "Phi 3": Kind(  # whose projections are fused
        _of("Phi3ForCausalLM", "Phi3Config", **_LLAMA, pad_token_id=0),
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        {},
    ),
    "T5": Kind(
        _of("T5ForConditionalGeneration", "T5Config", **_T5),
        ("q", "k", "v", "o", "wi", "wo"),
        {"task_type": "SEQ_2_SEQ_LM"},
    ),
    "BERT": Kind(
        _of("BertModel", "BertConfig", **_SIZES, intermediate_size=24),
        ("query", "key", "value", "dense", "word_embeddings"),
        {},
    ),
    "ViT": Kind(  # with a convolution
        _of("ViTModel", "ViTConfig", **_VIT),
        ("projection", "q_proj", "k_proj", "v_proj", "fc1", "fc2"),
        {},
    ),
    "Mamba": Kind(
        _of("MambaForCausalLM", "MambaConfig", **_MAMBA),
        ("in_proj", "x_proj", "dt_proj"),
        {},
    ),
}


@dataclass(frozen=True)
class Case:
    """A zoo, what it comes to, and how it is merged.

    Attributes:
        kind: Name of the model.
        zoo: Its directory.
        said: What each adapter is, for people.
        wanted: The sum of the adapters' updates, by module.
        compact: Whether the merge leaves out rows of zeros.
    """

    kind: str
    zoo: Path
    said: tuple[str, ...]
    wanted: Updates
    compact: bool


def draw(seed: int, root: Path, kind: str = "") -> Case:
    """A case, whose adapters are written.

    Args:
        seed: Another case for each.
        root: Where its zoo is made.
        kind: Name of the model; drawn if empty.
    """
    rng = random.Random(seed)
    kind = kind or rng.choice(sorted(KINDS))
    spec = KINDS[kind]
    total: dict[str, np.ndarray] = {}
    said = []
    paths = _paths(spec)
    for number in range(rng.randint(1, 4)):
        ends = rng.sample(spec.modules, rng.randint(1, len(spec.modules)))
        chosen = [path for path in paths if path.endswith(tuple(f".{end}" for end in ends))]
        rank, alpha = rng.randint(1, 5), rng.choice([1, 2.5, 16])
        form, mix, dtype = rng.choice(ALPHAS), rng.choice(RANKS), rng.choice(sorted(DTYPES))
        own = {p: rng.choice([0.5, 3]) for p in rng.sample(chosen, (len(chosen) + 1) // 2)}
        other = {p: rng.randint(1, 6) for p in rng.sample(chosen, (len(chosen) + 1) // 2)}
        fields: dict[str, Any] = {
            "r": rank,
            "lora_alpha": alpha,
            "use_rslora": form in ("rsLoRA", "both"),
            "alpha_pattern": own if form in ("alpha_pattern", "both") else {},
            "rank_pattern": other if mix == "rank_pattern" else {},
            "target_modules": rng.choice([ends, chosen]),
        }
        config = LoraConfig(**fields, **spec.options)
        place = root / "zoo" / f"a{number}"
        _save(spec, config, place, 1000 * seed + number, DTYPES[dtype])
        said.append(f"a{number} {','.join(ends)} {dtype} r {rank} {mix} {form}")
        for path, update in loaded(kind, place).items():
            total[path] = total[path] + update if path in total else update
    return Case(kind, root / "zoo", tuple(said), total, rng.random() < 0.5)


def _paths(spec: Kind) -> list[str]:
    ends = tuple(f".{end}" for end in spec.modules)
    kinds = (nn.Linear, nn.Embedding, nn.Conv2d, UNTYPED.pytorch_utils.Conv1D)
    return [
        path
        for path, module in _made(spec).named_modules()
        if isinstance(module, kinds) and f".{path}".endswith(ends)
    ]


def _made(spec: Kind) -> nn.Module:
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(0)
        return spec.model()


def _save(spec: Kind, config: LoraConfig, place: Path, seed: int, dtype: torch.dtype) -> None:
    """An adapter with random factors, as PEFT saves it, in an element type."""
    generator = torch.Generator().manual_seed(seed)
    with _quiet():
        model: Any = get_peft_model(_made(spec), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    drawn = 0.4 * torch.randn(parameter.shape, generator=generator)
                    parameter.data = drawn.to(dtype)
        model.peft_config["default"].base_model_name_or_path = "tiny/base"
        # Not the embeddings themselves, which PEFT would save with their factors.
        model.save_pretrained(str(place), save_embedding_layers=False)


def loaded(kind: str, place: Path) -> Updates:
    """The update of each module of an adapter that PEFT loads, from its factors in float64."""
    with _quiet():
        made: Any = PeftModel.from_pretrained(_made(KINDS[kind]), str(place))
    model = made.double().base_model.model
    out: Updates = {}
    for path, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and module.scaling:
            out[path] = module.get_delta_weight("default").detach().flatten(1).numpy()
    return out


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def merged(case: Case, output: Path, method: str) -> tuple[Updates, Any]:
    """Merges the zoo of a case; what PEFT loads of it, and the record.

    Args:
        case: The case.
        output: Where the merge is written.
        method: `concat` or `svd`, at a rank that loses nothing.
    """
    record = lego_ray.merge(
        case.zoo,
        output=output,
        method=method,
        rank=32,
        compact=case.compact,
        dtype="F32",
        runner="inline",
    )
    return loaded(case.kind, output), record
