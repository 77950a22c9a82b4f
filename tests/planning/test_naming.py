"""One module under several names: which name the merge has, and when it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lego_ray.errors import LayoutMismatch
from lego_ray.formats.record import AdapterRecord
from lego_ray.planning.naming import agreed_names, named_as
from lego_ray.planning.plan import Plan
from lego_ray.planning.planner import make_plan
from lego_ray.planning.recipe import Recipe, site_seed
from tests.planning.records import SHAPE, adapter, factors, inventory


def of(name: str, *sites: str, layout: str = "kohya") -> AdapterRecord:
    return replace(adapter(name, [factors(site) for site in sites], config={}), format=layout)


def plan(*adapters: AdapterRecord) -> Plan:
    return make_plan(Recipe(name="m", rank=4), inventory(*adapters))


def sites(made: Plan) -> list[str]:
    return sorted(site.site for task in made.tasks for site in task.sites)


@pytest.mark.parametrize(
    ("first", "second", "written"),
    [
        ("lora_te_text_model_final_0", "lora_te1_text_model_final_0", 0),
        ("lora_unet_output_blocks_5_1_proj_in", "unet.output_blocks.5.1.proj_in", 0),
        ("lora_unet_blocks_0_self_attn_q", "diffusion_model.blocks.0.self_attn.q", 0),
        ("lora_unet_blocks_0_self_attn_q", "lora_unet__blocks_0_self_attn_q", 0),
        ("lora_unet_transformer_blocks_0_attn_to_q", "transformer_blocks.0.attn.to_q", 0),
        ("diffusion_model.blocks.0.img_attn_qkv", "diffusion_model.blocks.0.img_attn.qkv", 0),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.encoder.layers.0.mlp.fc1", 0),
        ("lora_te2_encoder_block_0_layer_0_q", "lora_te3_encoder_block_0_layer_0_q", 0),
    ],
)  # fmt: skip
def test_two_spellings_are_one_site(first: str, second: str, written: int) -> None:
    expected = (first, second)[written]
    for a, b in ((first, second), (second, first)):
        made = plan(of("a", a), of("b", b))
        assert sites(made) == [expected]
        site = made.tasks[0].sites[0]
        assert (site.n_adapters, site.n_msus) == (2, 8)
        assert site.seed == site_seed(0, expected)
    assert any("is spelled" in w or "are spelled" in w for w in made.warnings)


def test_the_majority_decides_and_the_order_does_not() -> None:
    a = of("a", "lora_unet_blocks_0_x")
    b = of("b", "diffusion_model.blocks.0.x", "diffusion_model.blocks.1.x")
    c = of("c", "diffusion_model.blocks.0.x")
    assert sites(plan(a, b, c)) == ["diffusion_model.blocks.0.x", "diffusion_model.blocks.1.x"]
    assert plan(a, b, c).digest == plan(c, b, a).digest


def test_all_modules_are_written_in_one_spelling() -> None:
    """Also one that only the minority has; and underscores, where the dots of one are not known."""
    a = of("a", "lora_unet_blocks_0_x")
    b = of("b", "diffusion_model.blocks.0.x", "diffusion_model.blocks.1.x_y")
    assert sites(plan(a, b)) == ["lora_unet_blocks_0_x", "lora_unet_blocks_1_x_y"]
    c = of("c", "lora_unet_blocks_0_x", "lora_unet_blocks_2_z")
    dotted = [of(f"d{n}", "diffusion_model.blocks.0.x") for n in range(3)]
    assert sites(plan(*dotted, c)) == ["lora_unet_blocks_0_x", "lora_unet_blocks_2_z"]


def test_one_spelling_stays_as_it_is() -> None:
    for site in (
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "unet.conv_in",
        "lora_unet__blocks_0_x",
    ):
        adapters = [of("a", site), of("b", site)]
        assert list(agreed_names(adapters, "kohya")) == adapters
        assert plan(*adapters).warnings == ()


def test_two_modules_that_flatten_to_one_name_stay_two() -> None:
    both = of("a", "unet.a.b_c", "unet.a_b.c", layout="diffusers")
    one = of("b", "unet.a.b_c", layout="diffusers")
    assert sites(plan(both, one)) == ["unet.a.b_c", "unet.a_b.c"]
    kohya = [of("a", "unet.a.b_c", "unet.a_b.c"), of("b", "lora_unet_a_b_c")]
    with pytest.raises(LayoutMismatch, match=r"lora_unet_a_b_c: .*unet\.a\.b_c and unet\.a_b\.c"):
        plan(*kohya)


def peft(name: str, *names: str) -> AdapterRecord:
    return of(name, *names, layout="peft")


def test_a_wrapper_of_one_adapter_is_dropped() -> None:
    clean, wrapped = peft("a", "m.0.attn.q"), peft("b", "m.0.attn.module.q")
    more = peft("c", "m.0.attn.module.q")
    assert sites(plan(clean, wrapped, more)) == ["m.0.attn.q"]
    assert sites(plan(clean, peft("b", "module.m.0.attn.q"))) == ["m.0.attn.q"]
    assert sites(plan(clean, peft("b", "m.0.attn.module.v"))) == ["m.0.attn.q", "m.0.attn.v"]


def test_a_part_of_the_model_called_module_stays() -> None:
    levit = [peft(n, "m.0.module.q", "m.1.q") for n in "ab"]
    assert sites(plan(*levit)) == ["m.0.module.q", "m.1.q"]
    assert plan(*levit).warnings == ()
    unknown = plan(*(peft(n, "m.0.module.q") for n in "ab"))
    assert sites(unknown) == ["m.0.module.q"]
    assert any("`module`" in warning for warning in unknown.warnings)


def test_names_that_were_changed_name_another_run() -> None:
    """Earlier releases merged the same adapters to other bits under the same id."""
    same = [of("a", "lora_te_x_0"), of("b", "lora_te_x_0")]
    mixed = [of("a", "lora_te_x_0"), of("b", "lora_te1_x_0")]
    assert plan(*same).digest != plan(*mixed).digest


def test_names_of_a_merge_that_is_there() -> None:
    known = dict.fromkeys(["lora_te1_x_0", "lora_unet_y_0"], SHAPE)
    named = named_as([of("a", "lora_te_x_0", "unet.y.0", "lora_unet_z_0")], known, "kohya")
    assert [f.site for f in named[0].sites] == ["lora_te1_x_0", "lora_unet_y_0", "lora_unet_z_0"]
    wrapped = named_as([peft("a", "m.module.q")], {"m.q": SHAPE}, "peft")
    assert [f.site for f in wrapped[0].sites] == ["m.q"]


def test_a_wrapper_in_a_flattened_name_is_dropped() -> None:
    clean, wrapped = of("a", "lora_unet_blocks_0_x"), of("b", "lora_unet_module_blocks_0_x")
    assert sites(plan(clean, wrapped)) == ["lora_unet_blocks_0_x"]
    alone = of("c", "lora_unet_module_blocks_1_x")  # which may be its name
    assert sites(plan(clean, alone)) == ["lora_unet_blocks_0_x", "lora_unet_module_blocks_1_x"]
    both = of("d", "lora_unet_blocks_0_x", "lora_unet_module_blocks_0_x")
    assert sites(plan(both)) == ["lora_unet_blocks_0_x", "lora_unet_module_blocks_0_x"]


def test_a_file_of_two_denoisers_has_diffusers_names_whoever_is_beside_it() -> None:
    """No layout of the authors' names has a second one; and the first does not become it."""
    first, second = (f"{name}.blocks.0.attn1.to_q" for name in ("transformer", "transformer_2"))
    authors = "diffusion_model.blocks.0.self_attn.q"
    both = of("both", first, second, layout="diffusers")
    other = of("other", authors, layout="comfyui")
    assert sites(plan(both, other)) == [first, second]
    assert sites(plan(of("low", second, layout="diffusers"), other)) == [first, second]
