"""What is published loads in PEFT, and each rule that refuses an output is one that PEFT breaks at."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

import lego_ray
from lego_ray.errors import NoAdaptersFound, UnreadableOutput
from lego_ray.formats.peft_carried import placed_key
from lego_ray.formats.readers.check import check_readers
from lego_ray.formats.readers.outgoing import outgoing_of
from lego_ray.output.leaving import for_elsewhere
from tests.formats.tiny_peft import TinyModel, edit_config, peft_deltas, save, train
from tests.zoo import CONFIG, WEIGHTS, relative_error, write_adapter, write_zoo

# Float32 products of float32 factors, each rounded once more on the way in.
F32_ROUNDING = 16 * 2.0**-24
SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def merge(zoo: Path, output: Path, **options: Any) -> dict[str, Any]:
    given = {"rank": 8, "method": "concat", "runner": "inline", **options}
    return lego_ray.merge(zoo, output=output, **given)


def loaded(model: nn.Module, path: Path) -> PeftModel:
    """The adapter on a model; a warning of PEFT is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*config.*not found.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return PeftModel.from_pretrained(model, str(path))


def deltas(model: PeftModel) -> dict[str, Any]:
    return {site: delta.double().numpy() for site, delta in peft_deltas(model).items()}


def bert(kind: type[nn.Module] = BertForSequenceClassification, labels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    fields: dict[str, Any] = {**SMALL, "num_labels": labels}
    return kind(BertConfig(**fields))


def classifier(path: Path, seed: int, model: nn.Module, task: str) -> dict[str, Any]:
    """A trained adapter of PEFT's with a head; returns its updates."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["query"], task_type=task)
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    save(adapted, path)
    edit_config(path, base_model_name_or_path="tiny/bert")
    return deltas(adapted)


@pytest.mark.parametrize(
    ("kind", "task"),
    [(BertForSequenceClassification, "SEQ_CLS"), (BertForTokenClassification, "TOKEN_CLS")],
)
def test_without_their_heads_classifiers_load(kind: type, task: str, tmp_path: Path) -> None:
    parts = [classifier(tmp_path / "zoo" / f"a{n}", n, bert(kind), task) for n in (1, 2)]
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    wanted = {site: parts[0][site] + parts[1][site] for site in parts[0]}
    assert relative_error(deltas(loaded(bert(kind), tmp_path / "m")), wanted) < F32_ROUNDING
    assert any(f"task_type {task}" in warning for warning in record["warnings"])
    planned = lego_ray.plan(tmp_path / "zoo", rank=8, method="concat", full_weights="drop")
    assert list(planned.warnings) == record["warnings"]
    assert "task_type" in (tmp_path / "m" / "README.md").read_text()
    # The rule is PEFT's: with the task it raises.
    edit_config(tmp_path / "m", task_type=task)
    with pytest.raises(KeyError, match="classifier"):
        PeftModel.from_pretrained(bert(kind), str(tmp_path / "m"))
    assert "task_type" in refused(tmp_path / "m")


@pytest.mark.parametrize("counts", [(3, 3), (3, 5)], ids=["same", "other number of classes"])
def test_a_kept_head_loads_and_its_limits_are_told(counts: tuple[int, int], tmp_path: Path) -> None:
    for number, labels in enumerate(counts):
        classifier(tmp_path / "zoo" / f"a{number}", number, bert(labels=labels), "SEQ_CLS")
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:a1", rank=4)
    [limit] = record["warnings"]
    assert "vLLM" in limit
    assert "llama.cpp" in limit
    model = loaded(bert(labels=counts[1]), tmp_path / "m")
    head = load_file(tmp_path / "zoo" / "a1" / WEIGHTS)["base_model.model.classifier.weight"]
    inner: Any = model.base_model.model
    assert torch.equal(inner.classifier.modules_to_save["default"].weight, head)
    again = merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:a1", rank=4)
    assert again["warnings"] == record["warnings"]


@pytest.mark.parametrize("shape", [(0,), (0, 10)])
def test_a_head_of_size_0_is_refused_unless_dropped(shape: tuple[int, ...], tmp_path: Path) -> None:
    head = {"score.weight": torch.zeros(shape)}
    write_adapter(tmp_path / "zoo" / "a", full_weights=head, modules_to_save=["score"])
    for choice in ("refuse", "keep:a"):
        with pytest.raises(NoAdaptersFound, match=r"incomplete.*ZeRO-3"):
            merge(tmp_path / "zoo", tmp_path / "m", full_weights=choice)
    merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    loaded(TinyModel(), tmp_path / "m")


def test_factors_of_size_0_are_refused(tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "zoo" / "a") / WEIGHTS
    tensors = {key: torch.zeros(0) if "lora_B" in key else t for key, t in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(NoAdaptersFound, match="gathering"):
        merge(tmp_path / "zoo", tmp_path / "m")


def test_a_module_named_and_lacking_is_told_and_not_named(tmp_path: Path) -> None:
    head = {"score.weight": torch.ones(3, 10), "score.bias": torch.ones(3)}
    named = ["score", "layers.0.v_proj"]
    sites: dict[str, Any] = {"missing": ["layers.0.v_proj"]}
    write_adapter(tmp_path / "zoo" / "a", full_weights=head, modules_to_save=named, **sites)
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:a")
    assert any("names layers.0.v_proj" in warning for warning in record["warnings"])
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["modules_to_save"] == ["score"]
    loaded(TinyModel(), tmp_path / "m")


def test_a_kept_bias_goes_to_where_the_merge_has_its_module(tmp_path: Path) -> None:
    """Kept from an adapter that left q_proj alone; another adapts it, so that PEFT wraps it."""
    bias = {"layers.0.q_proj.bias": torch.full((10,), 7.0)}
    alone = ["layers.0.q_proj", "layers.1.q_proj"]
    write_adapter(tmp_path / "zoo" / "a", full_weights=bias, bias="all", missing=alone)
    write_adapter(tmp_path / "zoo" / "b", seed=1)
    record = merge(tmp_path / "zoo", tmp_path / "m", full_weights="keep:a")
    model = loaded(TinyModel(), tmp_path / "m")
    inner: Any = model.base_model.model
    kept = inner.layers[0].q_proj.base_layer.bias
    assert torch.equal(kept, bias["layers.0.q_proj.bias"])
    assert any("biases" in warning for warning in record["warnings"])


def test_what_is_kept_is_called_as_its_modules_are(tmp_path: Path) -> None:
    """Saved from inside of DDP's wrapper, whose name the other adapter's modules are without."""
    head = {
        "score.weight": torch.ones(3, 10),
        "score.bias": torch.ones(3),
        "layers.0.q_proj.base_layer.bias": torch.full((10,), 7.0),
    }
    zoo = tmp_path / "zoo"
    write_adapter(zoo / "a", full_weights=head, modules_to_save=["score"], bias="lora_only")
    write_adapter(zoo / "b", seed=1)
    wrapped = "base_model.model.module."
    rekeyed(zoo / "a", lambda k, t: {k.replace("base_model.model.", wrapped): t})
    merge(zoo, tmp_path / "m", full_weights="keep:a")
    model: Any = loaded(TinyModel(), tmp_path / "m").base_model.model
    assert torch.equal(model.score.modules_to_save["default"].weight, head["score.weight"])
    kept = model.layers[0].q_proj.base_layer.bias
    assert torch.equal(kept, head["layers.0.q_proj.base_layer.bias"])


def test_what_is_kept_of_a_real_part_called_module_keeps_it() -> None:
    sites = {"blocks.0.module.qkv", "blocks.1.module.qkv", "blocks.0.other"}
    key = "base_model.model.blocks.0.module.norm.weight"
    assert placed_key(key, sites) == key
    assert (
        placed_key("base_model.model.module.norm.weight", sites) == "base_model.model.norm.weight"
    )


def test_a_module_adapted_and_saved_whole_is_refused_by_the_plan(tmp_path: Path) -> None:
    head = {"layers.0.v_proj.weight": torch.ones(7, 12)}
    saved: dict[str, Any] = {"modules_to_save": ["layers.0.v_proj"], "missing": ["layers.0.v_proj"]}
    write_adapter(tmp_path / "zoo" / "a", full_weights=head, **saved)
    write_adapter(tmp_path / "zoo" / "b", seed=1)
    options: dict[str, Any] = {"rank": 8, "full_weights": "keep:a"}
    with pytest.raises(UnreadableOutput, match="saved whole"):
        lego_ray.plan(tmp_path / "zoo", **options)
    with pytest.raises(UnreadableOutput, match="saved whole"):
        merge(tmp_path / "zoo", tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_biases_of_updates_can_be_dropped(tmp_path: Path) -> None:
    save(train(seed=1, target_modules=["q_proj"], lora_bias=True), tmp_path / "zoo" / "a")
    with pytest.raises(NoAdaptersFound, match="--full-weights drop"):
        merge(tmp_path / "zoo", tmp_path / "no")
    merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    manifest = json.loads((tmp_path / "m" / "lego_ray_manifest.json").read_text())
    assert any("lora_bias" in note for note in manifest["sources"][0]["notes"])
    loaded(TinyModel(), tmp_path / "m")


def test_the_same_rules_hold_an_update(tmp_path: Path) -> None:
    for number in (1, 2):
        classifier(tmp_path / "zoo" / f"a{number}", number, bert(), "SEQ_CLS")
    options = {"method": "lego", "full_weights": "drop", "updatable": True, "n_init": 1}
    merge(tmp_path / "zoo", tmp_path / "m", rank=2, **options)
    record = lego_ray.update(tmp_path / "m", remove="a2", runner="inline")
    loaded(bert(), Path(record["output"]))
    assert any("task_type" in w for w in record["warnings"]) or (
        json.loads((Path(record["output"]) / CONFIG).read_text())["task_type"] is None
    )


# --- each rule, broken by hand, and what PEFT makes of it


def refused(path: Path) -> str:
    weights, config = (path / WEIGHTS).read_bytes(), (path / CONFIG).read_bytes()
    with pytest.raises(UnreadableOutput) as error:
        check_readers(outgoing_of("peft", str(path), weights, config))
    return str(error.value)


def rekeyed(path: Path, change: Callable[[str, Tensor], dict[str, Tensor]]) -> None:
    out: dict[str, Tensor] = {}
    for key, tensor in load_file(path / WEIGHTS).items():
        out |= change(key, tensor)
    save_file(out, path / WEIGHTS, {"format": "pt"})


Q = "base_model.model.layers.0.q_proj.lora_A.weight"
BREAKS: dict[str, Callable[[str, Tensor], dict[str, Tensor]]] = {
    "prefix": lambda k, t: {k.removeprefix("base_model.model."): t},
    "rank": lambda k, t: {k: t[:1] if k == Q else t},
    "size 0": lambda k, t: {k: t[:0] if k == Q else t},
    "half": lambda k, t: {} if k == Q else {k: t},
    "adapter": lambda k, t: {k.replace("lora_A.", "lora_A.other."): t},
    "unknown": lambda k, t: {k: t, "base_model.model.conv.weight": torch.ones(5, 3, 3, 2)},
}
FIELDS: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 16},
    "rslora": {"use_rslora": True},
    "targets": {"target_modules": ["v_proj"]},
    "saved": {"modules_to_save": ["q_proj"]},
    "pattern": {"rank_pattern": {"q_proj": 3}},
    "type": {"peft_type": "OFT"},
}


def differs(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether PEFT raises, or loads something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = deltas(PeftModel.from_pretrained(TinyModel(), str(path)))
        except Exception:
            return True
    return set(got) != set(wanted) or relative_error(got, wanted) > 0.01


@pytest.mark.parametrize("name", [*BREAKS, *FIELDS])
def test_what_is_refused_peft_raises_at_drops_or_misreads(name: str, tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo", 2)
    merge(tmp_path / "zoo", tmp_path / "m")
    wanted = deltas(loaded(TinyModel(), tmp_path / "m"))
    if name in BREAKS:
        rekeyed(tmp_path / "m", BREAKS[name])
    else:
        edit_config(tmp_path / "m", **FIELDS[name])
    assert refused(tmp_path / "m")
    if name == "unknown":  # PEFT overwrites a weight of the base model, or drops it
        return
    assert differs(tmp_path / "m", wanted)


def test_what_an_earlier_release_published_is_held_too(tmp_path: Path) -> None:
    """A merge whose configuration demands a head, with a manifest that vouches for it."""
    classifier(tmp_path / "zoo" / "a1", 1, bert(), "SEQ_CLS")
    merge(tmp_path / "zoo", tmp_path / "m", full_weights="drop")
    edit_config(tmp_path / "m", task_type="SEQ_CLS")
    revouch(tmp_path / "m")
    with pytest.raises(UnreadableOutput, match="task_type"):
        lego_ray.publish(tmp_path / "m", to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def revouch(path: Path) -> None:
    """Makes the manifest say of the configuration what it is."""
    import hashlib

    file = path / "lego_ray_manifest.json"
    manifest = json.loads(file.read_text())
    data = (path / CONFIG).read_bytes()
    manifest["files"][CONFIG] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(manifest))


# --- merges that do nothing


def test_a_merge_of_adapters_never_trained_warns(tmp_path: Path) -> None:
    for number in range(2):
        write_adapter(tmp_path / "zoo" / f"a{number}", seed=number, zero_b=True)
    warned = merge(tmp_path / "zoo", tmp_path / "m")["warnings"]
    assert [w for w in warned if "zero at every site: the adapter changes nothing" in w]
    assert [w for w in warned if "a0" in w and "before training" in w]


def test_updates_that_cancel_warn_and_others_do_not(tmp_path: Path) -> None:
    write_adapter(tmp_path / "zoo" / "a", seed=1)
    write_adapter(tmp_path / "zoo" / "b", seed=1, alpha=8.0)
    canceled = merge(tmp_path / "zoo", tmp_path / "m", weights={"a": 1.0, "b": -1.0})
    assert [w for w in canceled["warnings"] if "changes nothing" in w]
    plain = merge(tmp_path / "zoo", tmp_path / "p", weights={"a": 1.0, "b": 2.0})
    assert not [w for w in plain["warnings"] if "zero" in w]


# --- names in place of paths


def test_what_leaves_the_machine_holds_no_local_path(tmp_path: Path) -> None:
    write_zoo(tmp_path / "zoo", 3)
    (tmp_path / "zoo" / "broken").mkdir()
    (tmp_path / "zoo" / "broken" / CONFIG).write_text('{"peft_type": "OFT"}')
    first = sorted(p.name for p in (tmp_path / "zoo").iterdir() if p.name != "broken")[0]
    options = {"method": "lego", "n_init": 1, "updatable": True, "rank": 4}
    weights = {f"{tmp_path}/zoo/{first}": 2.0}
    merge(tmp_path / "zoo", tmp_path / "m", weights=weights, **options)
    files = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir() if file.is_file()}
    assert str(tmp_path).encode() not in files["README.md"]
    manifest = json.loads(files["lego_ray_manifest.json"])
    told, out = for_elsewhere(manifest, files)
    assert {name for name, data in out.items() if str(tmp_path).encode() in data} == set()
    assert out[WEIGHTS] == files[WEIGHTS]
    assert first in [source["uri"] for source in told["sources"]]
    assert [r["adapter"] for r in told["refused"]] == ["broken"]
    assert for_elsewhere(manifest, files) == (told, out)

    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in out.items():
        (copy / name).write_bytes(data)
    assert lego_ray.verify(copy, sources=tmp_path / "zoo")["ok"]
    with pytest.raises(lego_ray.errors.UpdateImpossible, match="--catalog"):
        lego_ray.update(copy, remove=first, output=tmp_path / "v2", runner="inline")
    catalog = tmp_path / "catalog"
    lego_ray.scan(tmp_path / "zoo", catalog=catalog)
    common: dict[str, Any] = {"remove": first, "catalog": catalog, "runner": "inline"}
    lego_ray.update(copy, output=tmp_path / "v2", **common)
    lego_ray.update(tmp_path / "m", output=tmp_path / "own", remove=first, runner="inline")
    assert (tmp_path / "v2" / WEIGHTS).read_bytes() == (tmp_path / "own" / WEIGHTS).read_bytes()
    lego_ray.update(copy, output=tmp_path / "v3", refit=True, **common)
