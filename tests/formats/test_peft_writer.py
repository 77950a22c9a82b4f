"""The merged adapter as written: PEFT must load it without a word and apply the same update."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from lego_ray.errors import InvalidOption, NonFiniteWeights, ShapeMismatch
from lego_ray.formats.merged import MergedSite
from lego_ray.formats.peft_config import parse_config
from lego_ray.formats.peft_writer import encode
from tests.formats.tiny_peft import TinyModel, factors, peft_deltas, read, save, train

# Folding the scaling into B before the product instead of after it.
FLOAT32: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}

OPTIONS: dict[str, Any] = {
    "rank": 9,
    "dtype": "F32",
    "base_model": "org/base",
    "task_type": None,
    "fan_in_fan_out": False,
}

MIXED: dict[str, Any] = {"rank_pattern": {"q_proj": 3, "layers.1.v_proj": 2, "emb": 5, "conv": 6}}


def merged_sites(path: Path) -> list[MergedSite]:
    out = []
    for site in read(path, full_weights="drop").sites:
        a, b = factors(path, site)
        tail = site.a.shape[1:] if site.kind == "conv" else ()
        out.append(MergedSite(site.site, site.kind, a, site.scaling * b, tail, len(site.b.shape)))
    return out


def load(files: dict[str, bytes], path: Path) -> PeftModel:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return PeftModel.from_pretrained(TinyModel(), str(path))


@pytest.mark.parametrize("compact", [False, True])
def test_peft_applies_what_was_written(tmp_path: Path, compact: bool) -> None:
    model = train(21, use_rslora=True, **MIXED)
    sites = merged_sites(save(model, tmp_path / "in"))
    files = encode(sites, compact=compact, **OPTIONS)
    assert list(files) == ["adapter_model.safetensors", "adapter_config.json"]
    again = peft_deltas(load(files, tmp_path / "out"))
    expected = peft_deltas(model)
    assert again.keys() == expected.keys()
    for site, delta in expected.items():
        torch.testing.assert_close(again[site], delta, **FLOAT32)
    ranks = {site.site: site.rank for site in read(tmp_path / "out").sites}
    assert ranks == {s.site: s.a.shape[0] if compact else 9 for s in sites}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_cast_last(tmp_path: Path, dtype: str) -> None:
    sites = merged_sites(save(train(22), tmp_path / "in"))
    files = encode(sites, **{**OPTIONS, "dtype": dtype})
    (tmp_path / "out").mkdir()
    for name, data in files.items():
        (tmp_path / "out" / name).write_bytes(data)
    record = read(tmp_path / "out")
    assert record.dtype == dtype
    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    for site, found in zip(sorted(sites, key=lambda s: s.site), record.sites, strict=True):
        a, b = factors(tmp_path / "out", found)
        assert torch.equal(a[: site.a.shape[0]], site.a.to(kind).float())
        assert torch.equal(b[:, : site.a.shape[0]], site.b.to(kind).float())
        assert not a[site.a.shape[0] :].any()


def test_bytes_do_not_depend_on_the_order_of_sites(tmp_path: Path) -> None:
    sites = merged_sites(save(train(23), tmp_path / "in"))
    assert encode(sites, **OPTIONS) == encode(sites[::-1], **OPTIONS)


def test_the_configuration_serves_everywhere(tmp_path: Path) -> None:
    sites = merged_sites(save(train(24), tmp_path / "in"))
    config = json.loads(
        encode(sites, **{**OPTIONS, "task_type": "CAUSAL_LM"})["adapter_config.json"]
    )
    assert set(config) <= set(LoraConfig.__dataclass_fields__)
    assert config["r"] == config["lora_alpha"] == 9
    assert config["target_modules"] == sorted(site.site for site in sites)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["bias"], config["use_rslora"], config["use_dora"]) == ("none", False, False)
    assert config["init_lora_weights"] is True
    assert config["inference_mode"] is True
    assert config["lora_dropout"] == 0
    assert config["base_model_name_or_path"] == "org/base"


def test_compact_patterns_match_their_site_alone() -> None:
    names = ["x.layers.1.q", "layers.1.q", "layers.11q", "layers.1.q.z"]
    sites = [
        MergedSite(name, "linear", torch.randn(k, 4), torch.randn(3, k))
        for k, name in enumerate(names, start=1)
    ]
    data = encode(sites, **{**OPTIONS, "rank": 5}, compact=True)["adapter_config.json"]
    config = parse_config(data, "config")
    assert [config.rank_of(name) for name in names] == [1, 2, 3, 4]
    assert [config.scaling_of(name) for name in names] == [1, 1, 1, 1]
    assert config.rank_of("y.layers.1.q") == 5


def test_full_weights_are_carried_over(tmp_path: Path) -> None:
    model = train(25, target_modules=["q_proj"], modules_to_save=["score"], bias="lora_only")
    path = save(model, tmp_path / "in")
    weight, bias = torch.randn(3, 10), torch.randn(10)
    files = encode(
        merged_sites(path),
        **OPTIONS,
        full_weights={
            "base_model.model.score.modules_to_save.default.weight": weight,
            "base_model.model.score.bias": torch.randn(3),
            "base_model.model.layers.0.q_proj.base_layer.bias": bias,
        },
        modules_to_save=["score"],
        bias="lora_only",
    )
    loaded: Any = load(files, tmp_path / "out").base_model.model
    assert torch.equal(loaded.score.modules_to_save.default.weight, weight)
    assert torch.equal(loaded.layers[0].q_proj.base_layer.bias, bias)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_overflow_is_an_error_not_an_infinity(dtype: str) -> None:
    a = torch.tensor([[1.0, 3.4e38]])
    with pytest.raises(InvalidOption, match=f"{dtype} cannot hold .*lora_A") as caught:
        encode([MergedSite("q", "linear", a, torch.randn(2, 1))], **{**OPTIONS, "dtype": dtype})
    assert "F32" in caught.value.hint


def test_nan_is_never_written() -> None:
    b = torch.tensor([[1.0], [float("nan")]])
    with pytest.raises(NonFiniteWeights, match=r"q\.lora_B\.weight holds 1 values of 2"):
        encode([MergedSite("q", "linear", torch.randn(1, 4), b)], **OPTIONS)


@pytest.mark.parametrize(
    "sites",
    [
        [],
        [MergedSite("q", "linear", torch.randn(2, 4), torch.randn(3, 1))],
        [MergedSite("q", "linear", torch.randn(10, 4), torch.randn(3, 10))],
        [MergedSite("q", "linear", torch.randn(0, 4), torch.randn(3, 0))],
        [MergedSite("q", "linear", torch.randn(1, 4), torch.randn(3, 1))] * 2,
        [MergedSite("c", "conv", torch.randn(1, 4), torch.randn(3, 1), (3, 1, 1), 4)],
        [MergedSite("c", "conv", torch.randn(1, 4), torch.randn(3, 1), (4, 1, 1), 2)],
    ],
)
def test_pairs_that_do_not_fit_are_refused(sites: list[MergedSite]) -> None:
    with pytest.raises(ShapeMismatch):
        encode(sites, **OPTIONS)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidOption, match="F64"):
        encode([], **{**OPTIONS, "dtype": "F64"})
