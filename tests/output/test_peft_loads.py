"""What is published, loaded by PEFT as it stands, and run: PEFT's arithmetic against ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import BertConfig, BertModel

import lego_ray
from tests.formats.tiny_peft import ALL_KINDS, TinyModel, peft_deltas, save, train
from tests.zoo import real_adapters, relative_error, sum_of, update_of

# Float32 products of float32 factors, each rounded once more on the way in.
F32_ROUNDING = 16 * 2.0**-24
# The same with factors stored in bfloat16's 8 significant bits.
BF16_ROUNDING = 8 * 2.0**-9
# Six layers of float32 arithmetic in another order: adapter beside the weight, or folded into it.
FORWARD_ROUNDING = 2e-5


def merge(
    sources: Path | list[Path], output: Path, rank: int | None, **options: Any
) -> dict[str, Any]:
    return lego_ray.merge(sources, rank=rank, output=output, **{"runner": "inline", **options})


def loaded(path: Path) -> PeftModel:
    """The adapter on a fresh model; PEFT only warns where it leaves something out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return PeftModel.from_pretrained(TinyModel(), str(path))


def arrays(deltas: dict[str, Tensor]) -> dict[str, Any]:
    return {site: delta.double().numpy() for site, delta in deltas.items()}


ROUND_TRIPS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 3, "layers.1.v_proj": 2}},
    {"alpha_pattern": {"v_proj": 1, "conv": 20}},
    {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}},
    {"target_modules": ["emb", "conv", "point", "conv1", "conv3"]},
    {"lora_alpha": -6, "alpha_pattern": {"q_proj": -1, "emb": 3}},
]


@pytest.mark.parametrize("options", ROUND_TRIPS, ids=str)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_one_adapter_comes_back_as_peft_saved_it(
    options: dict[str, Any], safe: bool, tmp_path: Path
) -> None:
    model = train(seed=3, **options)
    merge(save(model, tmp_path / "a", safe=safe), tmp_path / "m", rank=4)
    got, wanted = arrays(peft_deltas(loaded(tmp_path / "m"))), arrays(peft_deltas(model))
    assert relative_error(got, wanted) < F32_ROUNDING


def test_one_bf16_adapter_comes_back_in_bf16(tmp_path: Path) -> None:
    model = train(seed=3, dtype=torch.bfloat16)
    merge(save(model, tmp_path / "a"), tmp_path / "m", rank=4)
    got, wanted = arrays(peft_deltas(loaded(tmp_path / "m"))), update_of(tmp_path / "a")
    assert relative_error(got, wanted) < BF16_ROUNDING


def test_the_exact_sum_through_peft(tmp_path: Path) -> None:
    models = [train(seed=1), train(seed=2, r=3), train(seed=4, use_rslora=True)]
    for number, model in enumerate(models):
        save(model, tmp_path / "zoo" / f"a{number}")
    merge(tmp_path / "zoo", tmp_path / "m", rank=11, output_reweight="none")
    deltas = [arrays(peft_deltas(model)) for model in models]
    wanted = {site: sum(each[site] for each in deltas) for site in deltas[0]}
    assert relative_error(arrays(peft_deltas(loaded(tmp_path / "m"))), wanted) < F32_ROUNDING


@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_a_merge_of_adapters_on_different_sites_loads_whole(compact: bool, tmp_path: Path) -> None:
    save(train(seed=1, target_modules=["q_proj", "emb"]), tmp_path / "zoo" / "a")
    save(train(seed=2, target_modules=["v_proj", "conv"], r=2), tmp_path / "zoo" / "b")
    merge(tmp_path / "zoo", tmp_path / "m", rank=5, output_reweight="none", compact=compact)
    got = arrays(peft_deltas(loaded(tmp_path / "m")))
    wanted = sum_of([tmp_path / "zoo" / "a", tmp_path / "zoo" / "b"])
    assert relative_error(got, wanted) < F32_ROUNDING


@pytest.mark.parametrize("method", ["lego", "svd"])
def test_ranks_of_a_budget_load_site_by_site(method: str, tmp_path: Path) -> None:
    strong: dict[str, Any] = {"alpha_pattern": {"layers.0.q_proj": 40, "emb": 20}}
    for seed in (1, 2, 3):
        save(train(seed=seed, target_modules=ALL_KINDS, **strong), tmp_path / "zoo" / f"a{seed}")
    record = merge(tmp_path / "zoo", tmp_path / "m", rank_budget=4, rank=None, method=method)
    model = loaded(tmp_path / "m")
    config: Any = model.peft_config["default"]
    base: Any = model.base_model.model
    assert config.r == record["rank"]
    assert set(config.rank_pattern.values()) | {config.r} == set(record["ranks"].values())
    deltas = peft_deltas(model)
    for site, k in record["ranks"].items():
        layer = base.get_submodule(site)
        assert (layer.r["default"], layer.scaling["default"]) == (k, 1.0)
    assert relative_error(arrays(deltas), update_of(tmp_path / "m")) < F32_ROUNDING
    if method == "svd":
        wanted = sum_of(sorted((tmp_path / "zoo").iterdir()))
        for site, k in record["ranks"].items():
            s = np.linalg.svd(wanted[site], compute_uv=False)
            gap = np.linalg.norm(arrays(deltas)[site] - wanted[site])
            assert gap == pytest.approx(float(np.linalg.norm(s[k:])), abs=F32_ROUNDING * s[0])


def test_the_model_with_the_merge_on_it_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        save(train(seed=seed, target_modules=ALL_KINDS), tmp_path / "zoo" / f"a{seed}")
    merge(tmp_path / "zoo", tmp_path / "m", rank=3)
    model = loaded(tmp_path / "m")
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    inner: Any = model.base_model.model
    layer = inner.layers[0].q_proj
    update = torch.from_numpy(update_of(tmp_path / "m")["layers.0.q_proj"]).float()
    base = layer.get_base_layer()
    wanted = x @ (base.weight + update).T + base.bias
    torch.testing.assert_close(layer(x), wanted, rtol=FORWARD_ROUNDING, atol=FORWARD_ROUNDING)


def bert() -> BertModel:
    """A model of MiniLM's shape with random weights and few words."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=32,
    )
    made: Any = BertModel(config, add_pooling_layer=False)
    model: BertModel = made.eval()
    return model


@torch.no_grad()
def hidden(model: torch.nn.Module) -> Tensor:
    tokens = torch.arange(24).reshape(2, 12)
    out: Tensor = model(input_ids=tokens).last_hidden_state
    return out


@torch.no_grad()
def with_updates(updates: dict[str, Any]) -> BertModel:
    """The bare model with updates added to its weights."""
    model = bert()
    for site, update in updates.items():
        weight: Any = model.get_submodule(site).weight
        weight.copy_((weight.double() + torch.from_numpy(update)).float())
    return model


@pytest.fixture(scope="module")
def merged_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("real") / "m"
    merge(real_adapters(), output, rank=8, n_init=2)
    return output


def test_the_merged_real_zoo_runs_and_does_what_its_arithmetic_says(merged_zoo: Path) -> None:
    updates = update_of(merged_zoo)
    assert len(updates) == 36
    got = hidden(PeftModel.from_pretrained(bert(), str(merged_zoo)))
    wanted = hidden(with_updates(updates))
    assert float((hidden(bert()) - wanted).abs().max()) > 100 * FORWARD_ROUNDING
    torch.testing.assert_close(got, wanted, rtol=FORWARD_ROUNDING, atol=FORWARD_ROUNDING)


@pytest.mark.parametrize("prefix", ["movie", "shared", "rank4", "rslora"])
def test_a_real_adapter_merged_alone_gives_its_own_outputs(prefix: str, tmp_path: Path) -> None:
    path = next(p for p in real_adapters() if p.name.startswith(prefix))
    merge(path, tmp_path / "m", rank=8)
    got = hidden(PeftModel.from_pretrained(bert(), str(tmp_path / "m")))
    wanted = hidden(PeftModel.from_pretrained(bert(), str(path)))
    assert float((hidden(bert()) - wanted).abs().max()) > 100 * FORWARD_ROUNDING
    torch.testing.assert_close(got, wanted, rtol=FORWARD_ROUNDING, atol=FORWARD_ROUNDING)
