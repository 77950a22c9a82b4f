"""Which layouts go into one merge, and what that is written in: what the reference says, tried out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lego_ray
from jobs.fixtures import layout_tables
from lego_ray.errors import LayoutMismatch
from lego_ray.formats.layouts import LAYOUTS, layout_named
from lego_ray.formats.output_layouts import OUTPUTS
from lego_ray.planning.inventory import MIXED_INTO, go_together
from lego_ray.planning.options import LAYOUTS as ASKED
from tests.lone_zoo import tensors_of, write
from tests.zoo import write_adapter

BASE = "black-forest-labs/FLUX.1-dev"


def _lone(module: str, ends: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path / "a.safetensors", tensors_of({module: (8, 8)}, ends=ends, alpha=2.0))

    return make


def _peft(path: Path) -> None:
    write_adapter(path, base_model=BASE)


def _mlx(path: Path) -> None:
    path.mkdir(parents=True)
    fields = {"fine_tune_type": "lora", "num_layers": 2, "model": BASE}
    settings = {"rank": 2, "scale": 2.0, "dropout": 0.0}
    (path / "adapter_config.json").write_text(json.dumps({**fields, "lora_parameters": settings}))
    site = "layers.0.q_proj"
    factors = {f"{site}.lora_a": torch.ones(12, 2), f"{site}.lora_b": torch.ones(2, 10)}
    save_file(factors, path / "adapters.safetensors")


# One adapter of each layout that is read; those of image models are on one module of Flux.1.
WRITERS: Mapping[str, Callable[[Path], None]] = {
    "peft": _peft,
    "mlx": _mlx,
    "kohya": _lone("lora_unet_double_blocks_0_img_attn_proj", "down_up"),
    "xlabs": _lone("double_blocks.0.processor.proj_lora1", "xlabs"),
    "comfyui": _lone("diffusion_model.double_blocks.0.img_attn.proj", "a_b"),
    "diffusers": _lone("transformer.transformer_blocks.0.attn.to_out.0", "a_b"),
}

PAIRS = list(itertools.combinations(sorted(WRITERS), 2))


def planned(root: Path, *names: str, layout: str = "sources") -> str:
    for name in names:
        WRITERS[name](root / name)
    plan = lego_ray.plan(root, rank=8, method="concat", base_model=BASE, layout=layout)
    assert not plan.refused
    assert {adapter.format for adapter in plan.adapters} == set(names)
    return plan.format


def test_each_layout_that_is_read_is_tried() -> None:
    assert WRITERS.keys() == {layout.name for layout in LAYOUTS if layout.written_as}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_layouts_go_together_where_the_reference_says_so(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    written = [layout_named(name).written_as for name in pair]
    [row] = [line for line in layout_tables.read() if line.startswith(f"| `{pair[0]}` |")]
    mixes = row.split(" | ")[6]
    assert (f"`{pair[1]}`" in mixes) == go_together(written)
    if go_together(written):
        assert planned(tmp_path, *pair) in {*MIXED_INTO, "peft"}
    else:
        with pytest.raises(LayoutMismatch, match="layouts that name their sites differently"):
            planned(tmp_path, *pair)


@pytest.mark.parametrize("output", sorted(OUTPUTS))
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_layout_is_written_where_the_reference_says_so(
    name: str, output: str, tmp_path: Path
) -> None:
    [row] = [line for line in layout_tables.written() if line.startswith(f"| `{output}` |")]
    *_, own, asked = row.strip("| ").split(" | ")
    is_own = f"`{name}`" in own.partition(";")[0]
    assert (planned(tmp_path / "sources", name) == output) == is_own
    if output not in ASKED:
        assert asked == "cannot be asked for"
    elif is_own or f"`{name}`" in asked:
        assert planned(tmp_path / "asked", name, layout=output) == output
    else:
        with pytest.raises(LayoutMismatch):
            planned(tmp_path / "asked", name, layout=output)


def test_the_library_that_a_card_names_is_a_reader() -> None:
    for output in OUTPUTS.values():
        assert output.library in {name.lower() for name in output.readers}, output.name
