"""Adapters that are single files, and mlx-lm's: found, merged, written in their own layout."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.errors import (
    BaseModelMismatch,
    InvalidOption,
    LayoutMismatch,
    NoAdaptersFound,
    ObjectNotFound,
    OutputExists,
    VerificationFailed,
)
from tests.image_zoo import (
    DIFFUSERS_FILE,
    Updates,
    summed,
    update_of,
    write_diffusers,
    write_kohya,
)
from tests.zoo import Site, files_of, relative_error, write_adapter
from tests.zoo import update_of as peft_update_of

# Float32 products of float32 factors, each rounded once more on the way in.
F32_ROUNDING = 16 * 2.0**-24
MANIFEST = "lego_ray_manifest.json"
TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
NO_BASE = {"format": "pt"}


def merge(sources: Path | list[Path], output: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "runner": "inline", "n_init": 2, **options}
    return lego_ray.merge(sources, output=output, **options)


def kohya_zoo(root: Path) -> list[Updates]:
    """Three files in one directory and one below, that differ in what may differ."""
    return [
        write_kohya(root / "one.safetensors", seed=1),
        write_kohya(root / "two.safetensors", seed=2, rank=3, alpha=1.0),
        write_kohya(root / "three.safetensors", seed=3, rank=2, alpha=None),
        write_kohya(root / "deep" / "four.safetensors", seed=4, alphas={TO_Q: torch.tensor(7)}),
    ]


def diffusers_zoo(root: Path) -> list[Updates]:
    """One adapter in each of the spellings, under the name diffusers gives them all and others."""
    return [
        write_diffusers(root / "a" / DIFFUSERS_FILE, seed=1),
        write_diffusers(root / "b" / DIFFUSERS_FILE, seed=2, style="older", rank=3),
        write_diffusers(root / "c.safetensors", seed=3, style="oldest"),
        write_diffusers(root / "d.safetensors", seed=4, style="flat", rank=2),
    ]


def names(record: dict[str, Any]) -> list[str]:
    return sorted(Path(a["uri"]).name for a in record["adapters"])


def test_each_file_of_a_directory_is_an_adapter_of_its_own(tmp_path: Path) -> None:
    kohya_zoo(tmp_path)
    record = lego_ray.scan(tmp_path, catalog=tmp_path / "catalog")
    stems = ("four", "one", "three", "two")
    assert names(record) == [f"{stem}.safetensors" for stem in stems]
    assert record["refused"] == []
    [one] = [a for a in record["adapters"] if a["uri"].endswith("/one.safetensors")]
    assert one["uri"] == str(tmp_path / "one.safetensors")
    assert (one["format"], one["base_model"], one["n_sites"]) == ("kohya", "sd_v1", 10)
    assert (one["rank_min"], one["rank_max"]) == (4, 4)
    assert one["n_bytes"] == (tmp_path / "one.safetensors").stat().st_size
    assert lego_ray.scan(tmp_path, catalog=tmp_path / "catalog")["new"] == 0


def test_a_file_may_be_a_source_itself(tmp_path: Path) -> None:
    kohya_zoo(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    [whole] = [
        a for a in lego_ray.scan(tmp_path)["adapters"] if a["uri"].endswith("one.safetensors")
    ]
    [alone] = lego_ray.scan(tmp_path / "one.safetensors")["adapters"]
    assert alone == whole
    assert alone["license"] == "mit"
    two: list[str | Path] = [
        tmp_path / "one.safetensors",
        f"file://{tmp_path}/deep/four.safetensors",
    ]
    assert names(lego_ray.scan(two)) == ["four.safetensors", "one.safetensors"]
    with pytest.raises(ObjectNotFound):
        lego_ray.scan(tmp_path / "gone.safetensors")


def test_a_directory_may_be_called_like_a_file(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo.safetensors" / "one.safetensors")
    assert names(lego_ray.scan(tmp_path / "zoo.safetensors")) == ["one.safetensors"]


def test_weights_are_not_read_by_a_scan(tmp_path: Path) -> None:
    big = {"lora_unet_big.lora_down.weight": torch.ones(64, 8192)}
    big |= {
        "lora_unet_big.lora_up.weight": torch.ones(8192, 64),
        "lora_unet_big.alpha": torch.ones(()),
    }
    save_file(big, tmp_path / "big.safetensors")
    assert (tmp_path / "big.safetensors").stat().st_size > 4_000_000
    assert lego_ray.scan(tmp_path)["bytes_read"] < 200 * 1024


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("one", ["four", "three", "two"]),
        ("one.safetensors", ["four", "three", "two"]),
        ("t*", ["four", "one"]),
        ("deep", ["one", "three", "two"]),
        ("deep/*", ["one", "three", "two"]),
        ("*/deep/four.safetensors", ["one", "three", "two"]),
    ],
)
def test_files_are_excluded_by_name_path_or_uri(
    pattern: str, left: list[str], tmp_path: Path
) -> None:
    kohya_zoo(tmp_path)
    assert [Path(n).stem for n in names(lego_ray.scan(tmp_path, exclude=[pattern]))] == left


def test_what_is_no_adapter_is_passed_over_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    write_kohya(tmp_path / "good.safetensors")
    save_file({"model.embed.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    save_file({"emb_params": torch.ones(2, 8)}, tmp_path / "inversion.safetensors")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"x.lora_A.weight": torch.ones(2, 8)}, tmp_path / "unknown.safetensors")
    save_file({"lora_unet_x.hada_w1_a": torch.ones(4, 4)}, tmp_path / "loha.safetensors")
    save_file({"q.lora_a": torch.ones(4, 4)}, tmp_path / "mlx.safetensors")
    write_kohya(tmp_path / "cut.safetensors")
    cut = (tmp_path / "cut.safetensors").read_bytes()[:-100]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    record = lego_ray.scan(tmp_path)
    assert names(record) == ["good.safetensors"]
    reasons = {Path(r["adapter"]).stem: r["reason"] for r in record["refused"]}
    assert reasons.keys() == {"unknown", "loha", "mlx", "cut", "pointer"}
    assert "git lfs pull" in reasons["pointer"]  # of a LoRA, for all that can be known
    assert "no layout known here (such as x.lora_A.weight)" in reasons["unknown"]
    assert "LoHa" in reasons["loha"]
    assert "no adapter_config.json" in reasons["mlx"]
    assert reasons["cut"].startswith("MalformedAdapter")


def test_names_that_cannot_be_written_down_are_refused_by_name(tmp_path: Path) -> None:
    write_kohya(tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    strange = bytes(tmp_path / "x").removesuffix(b"x") + b"caf\xe9.safetensors"
    with open(strange, "wb") as file:  # noqa: PTH123 - a name that is not text
        file.write(data)
    record = lego_ray.scan(tmp_path, catalog=tmp_path / "catalog")
    assert names(record) == ["good.safetensors"]
    [refused] = record["refused"]
    assert refused["adapter"].endswith(r"caf\udce9.safetensors")
    assert "not UTF-8" in refused["reason"]
    json.dumps(record, ensure_ascii=False).encode()
    assert lego_ray.scan(tmp_path, exclude=["caf*"])["refused"] == []


def test_one_kohya_file_comes_back_as_one(tmp_path: Path) -> None:
    wanted = write_kohya(tmp_path / "zoo" / "one.safetensors", alpha=3.0)
    record = merge(tmp_path / "zoo", tmp_path / "m")
    assert record["status"] == "published"
    assert sorted(files_of(tmp_path / "m")) == ["README.md", MANIFEST, "m.safetensors"]
    assert relative_error(update_of(tmp_path / "m" / "m.safetensors"), wanted) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_one_diffusers_file_comes_back_as_one(tmp_path: Path) -> None:
    for style in ("new", "flat", "older", "oldest"):
        wanted = write_diffusers(tmp_path / style / "a.safetensors", style=style)
        merge(tmp_path / style, tmp_path / f"m-{style}")
        got = update_of(tmp_path / f"m-{style}" / DIFFUSERS_FILE)
        assert relative_error(got, wanted) < F32_ROUNDING


def test_the_exact_sum_of_kohya_files(tmp_path: Path) -> None:
    parts = kohya_zoo(tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m", rank=13, output_reweight="none", name="sum")
    got = update_of(tmp_path / "m" / "sum.safetensors")
    assert relative_error(got, summed(parts)) < F32_ROUNDING
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["errors"]["norm_ratio"] == (
        pytest.approx(1, abs=1e-6)
    )


def test_shares_kept_of_kohya_files_are_exact_to_float64(tmp_path: Path) -> None:
    """Their alphas are read with their factors: thirds and the like, which float32 would round."""
    parts = kohya_zoo(tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m", name="m", weights={"one.safetensors": 0.3})
    errors = lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["errors"]
    got = update_of(tmp_path / "m" / "m.safetensors")
    kept = {Path(s["adapter"]).stem: s["share_kept"] for s in errors["sources"]}
    for stem, part in zip(("one", "two", "three", "four"), parts, strict=True):
        inner = sum(float(np.sum(got[site] * update)) for site, update in part.items())
        squared = sum(float(np.sum(update**2)) for update in part.values())
        assert kept[stem] == pytest.approx(inner / squared, rel=1e-10)
    total = summed([{s: 0.3 * u for s, u in parts[0].items()}, *parts[1:]])
    gap = sum(float(np.sum((got[site] - total[site]) ** 2)) for site in total)
    norm = sum(float(np.sum(update**2)) for update in total.values())
    assert errors["relative_error_to_sum"] == pytest.approx((gap / norm) ** 0.5, rel=1e-10)


@pytest.mark.parametrize("compact", [False, True])
def test_the_exact_sum_of_diffusers_files(compact: bool, tmp_path: Path) -> None:
    parts = diffusers_zoo(tmp_path / "zoo")
    options = {"rank": 13, "output_reweight": "none", "compact": compact}
    merge(tmp_path / "zoo", tmp_path / "m", base_model="org/base", **options)
    got = update_of(tmp_path / "m" / DIFFUSERS_FILE)
    assert relative_error(got, summed(parts)) < F32_ROUNDING
    record = lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")
    assert (record["rank"], record["sites"], record["sources"]) == (13, 10, 4)
    [adapter] = lego_ray.scan(tmp_path / "m")["adapters"]
    assert adapter["base_model"] == "org/base"


def test_the_order_and_names_of_files_change_no_bit(tmp_path: Path) -> None:
    kohya_zoo(tmp_path / "zoo")
    for number, file in enumerate(sorted((tmp_path / "zoo").rglob("*.safetensors"))):
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "other" / f"{9 - number}.safetensors")
    for zoo in ("zoo", "other"):
        merge(tmp_path / zoo, tmp_path / f"of-{zoo}", rank=3, name="m")
    first, second = (tmp_path / f"of-{zoo}" / "m.safetensors" for zoo in ("zoo", "other"))
    assert first.read_bytes() == second.read_bytes()


def test_an_mlx_adapter_is_merged_into_a_peft_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    zoo = tmp_path / "zoo" / "mlx"
    zoo.mkdir(parents=True)
    tensors = {
        "model.layers.0.q_proj.lora_a": torch.randn(12, 4, generator=generator),
        "model.layers.0.q_proj.lora_b": torch.randn(4, 10, generator=generator),
        "model.embed_tokens.lora_a": torch.randn(20, 4, generator=generator),
        "model.embed_tokens.lora_b": torch.randn(4, 6, generator=generator),
    }
    save_file(tensors, zoo / "adapters.safetensors")
    save_file(tensors, zoo / "0000100_adapters.safetensors")
    config = {"fine_tune_type": "lora", "model": "org/base", "lora_parameters": {"scale": 5.0}}
    (zoo / "adapter_config.json").write_text(json.dumps(config))
    [adapter] = lego_ray.scan(zoo)["adapters"]
    assert (adapter["format"], adapter["uri"]) == ("mlx", str(zoo))
    merge(zoo, tmp_path / "m")
    wanted = {
        site: 5.0
        * (tensors[f"{site}.lora_b"].T.double() @ tensors[f"{site}.lora_a"].T.double()).numpy()
        for site in ("model.layers.0.q_proj", "model.embed_tokens")
    }
    assert relative_error(peft_update_of(tmp_path / "m"), wanted) < F32_ROUNDING
    written = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["task_type"]) == ("org/base", "CAUSAL_LM")
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["ok"]
    write_adapter(tmp_path / "zoo" / "peft", base_model="org/base")
    with pytest.raises(LayoutMismatch, match=r"layers\.0\.q_proj.*model\.layers\.0\.q_proj"):
        merge(tmp_path / "zoo", tmp_path / "both", rank=8)
    sites = [Site("model.layers.0.q_proj", (12,), 10), Site("model.layers.0.v_proj", (12,), 7)]
    write_adapter(tmp_path / "same" / "peft", base_model="org/base", sites=sites)
    both = merge([zoo, tmp_path / "same"], tmp_path / "both", rank=8)
    assert (len(both["adapters"]), both["sites"]) == (2, 3)


def test_an_mlx_configuration_without_its_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_parameters": {"scale": 5.0}}')
    [refused] = lego_ray.scan(tmp_path)["refused"]
    assert "no adapters.safetensors beside" in refused["reason"]


def test_layouts_do_not_mix_in_one_merge(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo" / "one.safetensors")
    write_adapter(tmp_path / "zoo" / "peft")
    with pytest.raises(LayoutMismatch, match="kohya's, such as") as caught:
        merge(tmp_path / "zoo", tmp_path / "m", base_model="x")
    assert caught.value.exit_code == 2
    assert "--exclude" in caught.value.hint
    assert not (tmp_path / "m").exists()
    assert merge(tmp_path / "zoo", tmp_path / "m", exclude=["*.safetensors"])["sites"] == 4


def test_two_names_of_one_block_are_one_module(tmp_path: Path) -> None:
    pair = {"lora_down": torch.ones(2, 8), "lora_up": torch.ones(8, 2)}
    for name, block in (("a", "input_blocks_4_1"), ("b", "down_blocks_1_attentions_0")):
        tensors = {f"lora_unet_{block}_proj_in.{k}.weight": t for k, t in pair.items()}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    sites = ["text_encoder.text_model.encoder.layers.1.mlp.fc1"]
    write_kohya(tmp_path / "text.safetensors", metadata={}, sites=sites)
    plan = lego_ray.plan(tmp_path, rank=2)
    assert plan.n_sites == 2
    assert any("b.safetensors: module names are spelled otherwise" in w for w in plan.warnings)
    tensors = {
        f"lora_unet_down_blocks_9_attentions_0_proj_in.{k}.weight": t for k, t in pair.items()
    }
    save_file(tensors, tmp_path / "c.safetensors")  # of no model that is known
    with pytest.raises(
        LayoutMismatch, match=r"down_blocks_\d.*input_blocks_4|input_blocks_4.*down"
    ):
        lego_ray.plan(tmp_path, rank=2)


def test_files_that_do_not_say_their_base_model_agree_with_each_other_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_kohya(tmp_path / f"{name}.safetensors", seed=ord(name), metadata=NO_BASE)
    plan = lego_ray.plan(tmp_path, rank=2)
    assert plan.base_model == ""
    assert any("--base-model" in warning for warning in plan.warnings)
    write_kohya(tmp_path / "c.safetensors", seed=3)
    with pytest.raises(BaseModelMismatch, match=r"2 name \(none\); 1 name sd_v1"):
        lego_ray.plan(tmp_path, rank=2)
    merge(tmp_path, tmp_path / "m", base_model="sd_v1")
    with safe_open(tmp_path / "m" / "m.safetensors", "pt") as opened:
        assert opened.metadata()["ss_base_model_version"] == "sd_v1"


def test_a_card_speaks_for_the_files_beside_it(tmp_path: Path) -> None:
    card = "---\nbase_model:\n- org/base\nlicense: openrail\ntags:\n- style\n---\n"
    (tmp_path / "README.md").write_text(card)
    write_diffusers(tmp_path / "a.safetensors")
    write_kohya(tmp_path / "b.safetensors", metadata=NO_BASE)
    for adapter in lego_ray.scan(tmp_path)["adapters"]:
        assert (adapter["base_model"], adapter["license"]) == ("org/base", "openrail")
        assert adapter["tags"] == {"style": "true"}


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_bad_alpha_quarantines_its_adapter_and_no_other(value: float, tmp_path: Path) -> None:
    kohya_zoo(tmp_path / "zoo")
    wanted = merge(tmp_path / "zoo", tmp_path / "without", name="m")
    write_kohya(tmp_path / "zoo" / "bad.safetensors", alphas={TO_Q: torch.tensor(value)})
    record = merge(tmp_path / "zoo", tmp_path / "m", name="m")
    [refused] = record["refused"]
    assert refused["adapter"] == str(tmp_path / "zoo" / "bad.safetensors")
    assert f"{TO_Q}.alpha is" in refused["reason"]
    assert record["adapters"] == wanted["adapters"]
    files = (tmp_path / name / "m.safetensors" for name in ("without", "m"))
    assert len({file.read_bytes() for file in files}) == 1


def test_weights_go_by_a_files_name(tmp_path: Path) -> None:
    parts = kohya_zoo(tmp_path / "zoo")
    weights = {"one": 2.0, "two.safetensors": 0.0, "deep/four": -1.0}
    options = {"rank": 10, "output_reweight": "none", "weights": weights}
    merge(tmp_path / "zoo", tmp_path / "m", **options)
    scales = (2, 0, 1, -1)
    wanted = summed(
        [{s: w * u for s, u in part.items()} for w, part in zip(scales, parts, strict=True)]
    )
    assert relative_error(update_of(tmp_path / "m" / "m.safetensors"), wanted) < F32_ROUNDING


def test_a_source_below_its_own_output_is_not_merged_again(tmp_path: Path) -> None:
    kohya_zoo(tmp_path)
    first = merge(tmp_path, tmp_path / "m")
    again = merge(tmp_path, tmp_path / "m")
    assert again["status"] == "already published"
    assert again["adapters"] == first["adapters"]


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_the_weights_are_the_last_file_and_an_output_without_them_is_completed(
    layout: str, tmp_path: Path
) -> None:
    (kohya_zoo if layout == "kohya" else diffusers_zoo)(tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m")
    marker = "m.safetensors" if layout == "kohya" else DIFFUSERS_FILE
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    assert (manifest["format"], manifest["marker"]) == (layout, marker)
    assert lego_ray.status(tmp_path / "m")["state"] == "published"
    whole = (tmp_path / "m" / marker).read_bytes()
    (tmp_path / "m" / marker).unlink()
    with pytest.raises(ObjectNotFound):
        lego_ray.status(tmp_path / "m")
    with pytest.raises(VerificationFailed, match="not there") as caught:
        lego_ray.verify(tmp_path / "m")
    assert "run the same merge again" in caught.value.hint
    assert merge(tmp_path / "zoo", tmp_path / "m")["status"] == "published"
    assert (tmp_path / "m" / marker).read_bytes() == whole
    assert merge(tmp_path / "zoo", tmp_path / "m")["status"] == "already published"
    with pytest.raises(OutputExists, match="another plan"):
        merge(tmp_path / "zoo", tmp_path / "m", seed=1)


def test_a_library_may_hold_merges_of_several_layouts(tmp_path: Path) -> None:
    kohya_zoo(tmp_path / "zoo" / "kohya")
    diffusers_zoo(tmp_path / "zoo" / "diffusers")
    write_kohya(tmp_path / "zoo" / "bad.safetensors", alphas={TO_Q: torch.tensor(float("nan"))})
    (tmp_path / "library.yaml").write_text(
        f"""
sources: [{tmp_path / "zoo"}]
defaults: {{rank: 4, options: {{n_init: 2}}}}
merges:
  - {{name: all-kohya, adapters: ["kohya/*", deep/four, bad]}}
  - {{name: few, adapters: [one, three]}}
  - {{name: all-diffusers, adapters: [a/*, b/*, c, d]}}
"""
    )
    record = lego_ray.build(tmp_path / "library.yaml", output=tmp_path / "out", runner="inline")
    one, three = (tmp_path / "zoo" / "kohya" / f"{n}.safetensors" for n in ("one", "three"))
    alone = {
        "all-kohya": ([tmp_path / "zoo" / "kohya"], "all-kohya.safetensors"),
        "few": ([one, three], "few.safetensors"),
        "all-diffusers": ([tmp_path / "zoo" / "diffusers"], DIFFUSERS_FILE),
    }
    for name, (sources, file) in alone.items():
        merge(sources, tmp_path / name)
        assert (tmp_path / "out" / name / file).read_bytes() == (
            tmp_path / name / file
        ).read_bytes()
    refused = {r["adapter"] for each in record["merges"] for r in each["refused"]}
    assert refused == {str(tmp_path / "zoo" / "bad.safetensors")}


def test_a_catalog_of_single_files_is_whole_and_what_it_refers_to_is_no_garbage(
    tmp_path: Path,
) -> None:
    kohya_zoo(tmp_path / "zoo")
    root, catalog = tmp_path / "root", tmp_path / "catalog"
    merge(tmp_path / "zoo", root / "a-source")
    merge(tmp_path / "zoo", root / "forgotten", seed=1)
    merge(tmp_path / "zoo", root / "cut-short", seed=2)
    (root / "cut-short" / "cut-short.safetensors").unlink()
    record = merge([root / "a-source", tmp_path / "zoo"], root / "recorded", catalog=catalog)
    assert str(root / "a-source" / "a-source.safetensors") in record["adapters"]
    assert lego_ray.check_catalog(catalog, deep=True)["problems"] == []
    [again] = lego_ray.scan(root / "recorded", catalog=catalog)["adapters"]
    [row] = lego_ray.catalog.list_merges(catalog).to_pylist()
    assert row["output_adapter_id"] == again["adapter_id"]
    told = lego_ray.collect_garbage(catalog, root, older_than=timedelta(0), force=True, delete=True)
    kinds = {Path(each["output"]).name: each["kind"] for each in told["outputs"]}
    assert kinds == {"forgotten": "output", "cut-short": "publish cut short"}
    assert sorted(p.name for p in root.iterdir()) == ["a-source", "recorded"]
    assert lego_ray.verify(root / "a-source")["ok"]


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_merge_is_copied_with_its_weights_last(layout: str, tmp_path: Path) -> None:
    (kohya_zoo if layout == "kohya" else diffusers_zoo)(tmp_path / "zoo")
    merge(tmp_path / "zoo", tmp_path / "m")
    record = lego_ray.publish(tmp_path / "m", to=tmp_path / "copy")
    assert record["files"][-1]["path"] == ("m.safetensors" if layout == "kohya" else DIFFUSERS_FILE)
    assert {k: v for k, (_, v) in files_of(tmp_path / "copy").items()} == {
        k: v for k, (_, v) in files_of(tmp_path / "m").items()
    }
    assert lego_ray.publish(tmp_path / "m", to=tmp_path / "copy")["status"] == "already published"
    assert lego_ray.verify(tmp_path / "copy", sources=tmp_path / "zoo")["ok"]


def test_someone_elses_file_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    kohya_zoo(tmp_path / "zoo")
    write_kohya(tmp_path / "m" / "m.safetensors", seed=9)
    before = files_of(tmp_path / "m")
    with pytest.raises(OutputExists, match="lego-ray did not write"):
        merge(tmp_path / "zoo", tmp_path / "m")
    assert files_of(tmp_path / "m") == before


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\udce9"])
def test_a_name_that_cannot_be_a_files_is_refused_before_anything_is_read(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match="--name"):
        merge(tmp_path, tmp_path / "m", name=name)


def test_files_beside_the_merged_one_are_not_taken_for_it(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo" / "a.safetensors")
    write_kohya(tmp_path / "m" / "someones.safetensors", seed=9)
    write_kohya(tmp_path / "m" / "below" / "m.safetensors", seed=9)
    merge(tmp_path / "zoo", tmp_path / "m")
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_a_kohya_merge_may_have_the_name_peft_gives_its_weights(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo" / "a.safetensors")
    merge(tmp_path / "zoo", tmp_path / "m", name="adapter_model")
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]
    [adapter] = lego_ray.scan(tmp_path / "m")["adapters"]
    assert adapter["uri"] == str(tmp_path / "m" / "adapter_model.safetensors")


def test_half_precision_stays_so_and_alpha_beside_it_is_exact(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo" / "a.safetensors", dtype="BF16")
    merge(tmp_path / "zoo", tmp_path / "m")
    stored = load_file(tmp_path / "m" / "m.safetensors")
    kinds = {key.rpartition(".")[2]: tensor.dtype for key, tensor in stored.items()}
    assert kinds == {"weight": torch.bfloat16, "alpha": torch.float32}


def test_the_card_says_how_to_load_it(tmp_path: Path) -> None:
    write_kohya(tmp_path / "zoo" / "a.safetensors")
    merge(tmp_path / "zoo", tmp_path / "m", name="mine")
    card = (tmp_path / "m" / "README.md").read_text()
    assert 'library_name: "diffusers"' in card
    assert 'load_lora_weights("...", weight_name="mine.safetensors")' in card
    write_diffusers(tmp_path / "other" / "a.safetensors")
    merge(tmp_path / "other", tmp_path / "n")
    assert 'load_lora_weights("...")' in (tmp_path / "n" / "README.md").read_text()


def test_an_old_pickled_file_is_read_without_running_it(tmp_path: Path) -> None:
    wanted = write_diffusers(tmp_path / "x.safetensors", style="bare")
    (tmp_path / "zoo").mkdir()
    torch.save(load_file(tmp_path / "x.safetensors"), tmp_path / "zoo" / "pytorch_lora_weights.bin")
    [adapter] = lego_ray.scan(tmp_path / "zoo")["adapters"]
    assert adapter["format"] == "diffusers"
    merge(tmp_path / "zoo", tmp_path / "m")
    assert relative_error(update_of(tmp_path / "m" / DIFFUSERS_FILE), wanted) < F32_ROUNDING


def test_nothing_of_the_kind_says_what_was_looked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(NoAdaptersFound, match="no single file of an image model"):
        lego_ray.plan(tmp_path, rank=2)
