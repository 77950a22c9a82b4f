"""A merge, as the programs that serve it read it: each adds the sum of the sources, or says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import yaml
from huggingface_hub import ModelCardData
from peft import PeftModel
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import lego_ray
from tests.docs.pages import blocks_of, text_of
from tests.formats.tiny_peft import edit_config, peft_deltas
from tests.serving.readers import Deltas, by_comfyui, by_llama_cpp, by_sglang, by_vllm, to_gguf
from tests.zoo import Site, relative_error, sum_of, write_adapter

# Float32 products of float32 factors, each rounded once more on the way in.
F32_ROUNDING = 16 * 2.0**-24
LAYERS = 2
ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = {"mlp.gate_proj": (16, 32), "mlp.up_proj": (16, 32), "mlp.down_proj": (32, 16)}
SITES = tuple(
    Site(f"model.layers.{layer}.{name}", (d_in,), d_out)
    for layer in range(LAYERS)
    for name, (d_in, d_out) in {**dict.fromkeys(ATTENTION, (16, 16)), **MLP}.items()
)
ADAPTABLE = [name.rpartition(".")[2] for name in (*ATTENTION, *MLP)]


@dataclass(frozen=True)
class Merges:
    plain: Path
    compact: Path
    wanted: Deltas


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    here = tmp_path_factory.mktemp("serving")
    zoo = here / "zoo"
    base = {"sites": SITES, "base_model": "Qwen/Qwen2.5-0.5B-Instruct"}
    places = [
        write_adapter(zoo / "one", seed=1, rank=4, **base),  # type: ignore[arg-type]
        write_adapter(zoo / "two", seed=2, rank=2, missing=[SITES[0].name], **base),  # type: ignore[arg-type]
    ]
    for place in places:
        (place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    given: dict[str, Any] = {"rank": 6, "method": "concat", "runner": "inline", "name": "chat"}
    lego_ray.merge(zoo, output=here / "plain", **given)
    lego_ray.merge(zoo, output=here / "compact", compact=True, **given)
    return Merges(here / "plain", here / "compact", sum_of(places))


def changed(merged: Path, to: Path, **fields: object) -> Path:
    return edit_config(Path(shutil.copytree(merged, to / "changed")), **fields)


def by_peft(merged: Path) -> Deltas:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))  # type: ignore[arg-type]
    adapted = PeftModel.from_pretrained(model, str(merged))
    return {site: delta.double().numpy() for site, delta in peft_deltas(adapted).items()}


@pytest.mark.parametrize(
    ("reads", "kind"),
    [
        (by_peft, "plain"),
        (by_peft, "compact"),
        (lambda merged: by_vllm(merged, ADAPTABLE), "plain"),
        (lambda merged: by_vllm(merged, ADAPTABLE), "compact"),
        (lambda merged: by_sglang(merged, LAYERS), "plain"),
    ],
    ids=["PEFT", "PEFT, compact", "vLLM", "vLLM, compact", "SGLang"],
)
def test_a_server_adds_the_sum(reads: Callable[[Path], Deltas], kind: str, merges: Merges) -> None:
    got = reads(getattr(merges, kind))
    assert relative_error(got, merges.wanted) < F32_ROUNDING


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bias": "lora_only"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 17}}, "max_lora_rank"),
    ],
)
def test_vllm_refuses(fields: dict[str, object], said: str, merges: Merges, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        by_vllm(changed(merges.plain, tmp_path, **fields), ADAPTABLE)


def test_vllm_refuses_a_module_that_the_model_does_not_have(merges: Merges) -> None:
    with pytest.raises(ValueError, match="down_proj"):
        by_vllm(merges.plain, [name for name in ADAPTABLE if name != "down_proj"])


def test_sglang_needs_one_rank_and_values_beside_queries(merges: Merges, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="q_proj"):
        by_sglang(merges.compact, LAYERS)
    queries = tuple(site for site in SITES if "q_proj" in site.name)
    write_adapter(tmp_path / "queries", sites=queries)
    with pytest.raises(KeyError, match="v_proj"):
        by_sglang(tmp_path / "queries", LAYERS)


def test_llama_cpp_converts_a_merge(merges: Merges, tmp_path: Path) -> None:
    qwen = gguf.MODEL_ARCH.QWEN2
    names = gguf.get_tensor_name_map(qwen, LAYERS)
    wanted = {f"{names.get_name(site)}.weight": delta for site, delta in merges.wanted.items()}
    to_gguf(merges.plain, tmp_path / "plain.gguf", LAYERS, qwen)
    assert relative_error(by_llama_cpp(tmp_path / "plain.gguf"), wanted) < F32_ROUNDING
    # One alpha for ranks that differ: the limit that a plan tells of --compact.
    to_gguf(merges.compact, tmp_path / "compact.gguf", LAYERS, qwen)
    assert relative_error(by_llama_cpp(tmp_path / "compact.gguf"), wanted) > 0.1
    card = (merges.compact / "README.md").read_text()
    assert "llama.cpp" in card.partition("## Limits")[2]
    with pytest.raises(ValueError, match="Can not map"):
        to_gguf(merges.plain, tmp_path / "m.gguf", LAYERS, gguf.MODEL_ARCH.BERT)


def image_lora(file: Path, seed: int, layout: str) -> Deltas:
    """A LoRA of Flux with authors' names; returns its updates by path."""
    blocks = {
        "double_blocks.0.img_attn.qkv": (24, 8),
        "double_blocks.0.img_attn.proj": (8, 8),
        "single_blocks.1.linear2": (8, 40),
    }
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    out: Deltas = {}
    for path, (d_out, d_in) in blocks.items():
        a, b = (torch.randn(*size, generator=generator) for size in ((4, d_in), (d_out, 4)))
        out[path] = (b.double() @ a.double()).numpy()
        if layout == "kohya":
            stem = f"lora_unet_{path.replace('.', '_')}"
            tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
            tensors[f"{stem}.alpha"] = torch.tensor(2.0)
            out[path] = 0.5 * out[path]
        else:
            stem = f"diffusion_model.{path}"
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file)
    return out


@pytest.mark.parametrize(
    ("layout", "prefix"), [("comfyui", "diffusion_model."), ("kohya", "lora_unet_")]
)
def test_comfyui_uses_every_key(layout: str, prefix: str, tmp_path: Path) -> None:
    parts = [image_lora(tmp_path / "zoo" / f"{n}.safetensors", n, layout) for n in (1, 2)]
    wanted = {path: parts[0][path] + parts[1][path] for path in parts[0]}
    given: dict[str, Any] = {"rank": 8, "method": "concat", "runner": "inline"}
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", name="style", **given)
    file = tmp_path / "m" / "style.safetensors"
    assert relative_error(by_comfyui(file, wanted, prefix), wanted) < F32_ROUNDING
    with pytest.raises(AssertionError, match="lora key not loaded"):
        by_comfyui(file, list(wanted)[:2], prefix)


def test_the_card_has_what_the_hub_reads_and_no_widget(merges: Merges) -> None:
    card = (merges.plain / "README.md").read_text()
    found = yaml.safe_load(card.split("---")[1])
    assert found == {
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora", "merge", "lego-ray"],
        "license": "apache-2.0",
    }
    data: Any = ModelCardData(**found)
    assert data.to_dict() == found


def test_the_page_gives_ollama_the_converted_file() -> None:
    """Ollama reads `FROM` a model and `ADAPTER` a GGUF file, a path relative to the Modelfile."""
    [block] = [each for each in blocks_of(text_of("docs/serve.md")) if "> Modelfile" in each.text]
    lines = block.text.splitlines()
    assert any(line.startswith("FROM ") for line in lines)
    [adapter] = [line.split()[1] for line in lines if line.startswith("ADAPTER ")]
    converter = next(
        each for each in blocks_of(text_of("docs/serve.md")) if "convert_lora" in each.text
    )
    assert f"--outfile {adapter.removeprefix('./')}" in converter.text
