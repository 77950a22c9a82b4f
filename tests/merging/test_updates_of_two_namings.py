"""Updates, checks and refreshes of merges whose adapters name one model's modules in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import lego_ray
from lego_ray.errors import VerificationFailed
from tests.lone_zoo import load, tensors_of, updates_of, write
from tests.merging.test_two_namings import (
    ANIMA,
    ANIMA_TEXT,
    ANIMA_TEXT_THERE,
    ANIMA_THERE,
    FLUX,
    FLUX2,
    FLUX2_THERE,
    FLUX_THERE,
    IDEOGRAM,
    IDEOGRAM_THERE,
    SGM,
    SGM_THERE,
    WAN,
    WAN_THERE,
    Z_IMAGE,
    Z_IMAGE_THERE,
    H,
    dotted,
    flat,
)
from tests.output.test_diffusers_loads import F32_ROUNDING
from tests.zoo import relative_error

Tensors = dict[str, Tensor]


def kohya(modules: Mapping[str, tuple[int, int]], seed: int, rank: int = 2) -> Tensors:
    names = flat("lora_unet_", modules)
    return tensors_of(names, ends="down_up", alpha=1.0, rank=rank, seed=seed)


def there(
    modules: Mapping[str, tuple[int, int]], seed: int, prefix: str = "transformer."
) -> Tensors:
    return tensors_of(dotted(prefix, modules), rank=3, seed=seed)


# By what they are of: two adapters with names of one kind, and one of the other kind that comes.
CASES: dict[str, tuple[Tensors, Tensors, Tensors]] = {
    "fused, then split": (kohya(FLUX, 1), kohya(FLUX, 2), there(FLUX_THERE, 3)),
    "split, then fused": (there(FLUX_THERE, 1), there(FLUX_THERE, 2), kohya(FLUX, 3)),
    "Z-Image, fused, then split": (kohya(Z_IMAGE, 1), kohya(Z_IMAGE, 2), there(Z_IMAGE_THERE, 3)),
    "Z-Image, fused, then split and flat": (
        kohya(Z_IMAGE, 1),
        kohya(Z_IMAGE, 2),
        kohya(Z_IMAGE_THERE, 3),
    ),
    "Z-Image, split, then fused": (
        there(Z_IMAGE_THERE, 1),
        there(Z_IMAGE_THERE, 2),
        kohya(Z_IMAGE, 3),
    ),
    "Flux.2": (
        tensors_of(dotted("diffusion_model.", FLUX2), seed=1),
        tensors_of(dotted("diffusion_model.", FLUX2), seed=2),
        there(FLUX2_THERE, 3),
    ),
    "Wan": (kohya(WAN, 1), kohya(WAN, 2), there(WAN_THERE, 3)),
    "Wan, the other way about": (there(WAN_THERE, 1), there(WAN_THERE, 2), kohya(WAN, 3)),
    "Anima": (kohya(ANIMA, 1), kohya(ANIMA, 2), there(ANIMA_THERE, 3)),
    "Anima's text conditioner": (
        kohya({**ANIMA, **ANIMA_TEXT}, 1),
        kohya({**ANIMA, **ANIMA_TEXT}, 2),
        {**there(ANIMA_THERE, 3), **tensors_of(ANIMA_TEXT_THERE, rank=3, seed=4)},
    ),
    "Ideogram 4": (kohya(IDEOGRAM, 1), kohya(IDEOGRAM, 2), there(IDEOGRAM_THERE, 3)),
    "SDXL": (kohya(SGM, 1), kohya(SGM, 2), there(SGM_THERE, 3, "unet.")),
    "SDXL, the other way about": (
        there(SGM_THERE, 1, "unet."),
        there(SGM_THERE, 2, "unet."),
        kohya(SGM, 3),
    ),
    "XLabs, then kohya": (
        tensors_of({"double_blocks.0.processor.qkv_lora1": (H, 3 * H)}, ends="xlabs", seed=1),
        tensors_of({"double_blocks.0.processor.qkv_lora1": (H, 3 * H)}, ends="xlabs", seed=2),
        kohya({"double_blocks.0.img_attn.qkv": (H, 3 * H)}, 3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_with_other_names_comes_and_goes(case: str, tmp_path: Path) -> None:
    one, two, new = CASES[case]
    for name, part in {"zoo/one": one, "zoo/two": two, "new/new": new}.items():
        write(tmp_path / f"{name}.safetensors", part)
    options: dict[str, Any] = {"runner": "inline", "base_model": "base", "n_init": 1}
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", updatable=True, rank=8, **options)
    before = updates_of(load(tmp_path / "m"))
    added = lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")
    with_it = updates_of(load(Path(added["output"])))
    # At least one module is in both; those the merge has not are named.
    assert any(abs(with_it[name] - before[name]).max() > 0 for name in before)
    assert with_it.keys() == before.keys()
    assert {name.rpartition(".")[2] for name in added["skipped_sites"]}.isdisjoint({"qkv"})
    report = lego_ray.verify(added["output"])
    assert report["ok"]
    gone = lego_ray.update(added["output"], remove=["new"], runner="inline")
    after = updates_of(load(Path(gone["output"])))
    assert relative_error(after, before) < F32_ROUNDING


def test_a_merge_with_fused_names_is_checked_against_split_sources(tmp_path: Path) -> None:
    one, two, new = CASES["fused, then split"]
    for name, part in {"zoo/one": one, "zoo/two": two, "new/new": new}.items():
        write(tmp_path / f"{name}.safetensors", part)
    options: dict[str, Any] = {"runner": "inline", "base_model": "base", "n_init": 1}
    lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", updatable=True, rank=8, **options)
    added = lego_ray.update(tmp_path / "m", add=[tmp_path / "new"], runner="inline")
    sources = [tmp_path / "zoo", tmp_path / "new"]
    report = lego_ray.verify(added["output"], sources=sources)
    assert report["ok"]
    assert report["sites"] == len(FLUX)
    with pytest.raises(VerificationFailed):
        lego_ray.verify(added["output"], sources=tmp_path / "zoo")


def test_a_refresh_takes_an_adapter_with_other_names(tmp_path: Path) -> None:
    one, two, new = CASES["fused, then split"]
    for name, part in {"zoo/one": one, "zoo/two": two}.items():
        write(tmp_path / f"{name}.safetensors", part)
    recipe = tmp_path / "library.yaml"
    places = {"catalog": tmp_path / "catalog", "output": tmp_path / "out"}
    recipe.write_text(
        f"sources: ['{tmp_path / 'zoo'}']\ncatalog: '{places['catalog']}'\n"
        f"output: '{places['output']}'\n"
        "defaults: {method: concat, rank: 12, base_model: base}\nmerges:\n  - name: everything\n"
    )
    lego_ray.refresh(recipe, runner="inline")
    write(tmp_path / "zoo/new.safetensors", new)
    lego_ray.refresh(recipe, runner="inline")
    [place] = lego_ray.catalog.sql(
        places["catalog"], "SELECT arg_max(output_uri, version) AS uri FROM merges"
    ).to_pylist()
    lego_ray.merge(
        tmp_path / "zoo",
        output=tmp_path / "m",
        rank=12,
        method="concat",
        base_model="base",
        runner="inline",
    )
    refreshed, merged = updates_of(load(Path(place["uri"]))), updates_of(load(tmp_path / "m"))
    assert relative_error(refreshed, merged) == 0
    assert lego_ray.verify(place["uri"], sources=tmp_path / "zoo")["ok"]
    assert lego_ray.refresh(recipe, runner="inline")["status"] != "failed"
