"""Old and new names of the layers of vision models, by the names alone."""

from __future__ import annotations

import pytest

from lego_ray.planning.base_names import BaseNames
from lego_ray.planning.layer_trees import in_new_layers, layer_renames

# An old name, its new name, and another name that shows that the model was renamed.
RENAMED = [
    (
        "vit.encoder.layer.1.attention.attention.query",
        "vit.layers.1.attention.q_proj",
        "vit.layers.0.attention.v_proj",
    ),
    (
        "beit.encoder.layer.0.attention.output.dense",
        "beit.layers.0.attention.o_proj",
        "beit.layers.0.mlp.fc1",
    ),
    ("encoder.layer.0.output.dense", "layers.0.mlp.fc2", "layers.3.attention.q_proj"),
    (
        "dinov2.encoder.layer.0.attention.attention.key",
        "dinov2.encoder.layer.0.attention.k_proj",
        "dinov2.encoder.layer.2.attention.o_proj",
    ),
    (
        "swin.encoder.layers.2.blocks.1.attention.self.value",
        "swin.encoder.layers.2.blocks.1.attention.v_proj",
        "swin.encoder.layers.0.blocks.0.mlp.fc1",
    ),
    (
        "segformer.encoder.block.2.1.mlp.dense1",
        "segformer.stages.2.blocks.1.mlp.fc1",
        "segformer.stages.0.blocks.0.attention.q_proj",
    ),
    (
        "model.decoder.layers.0.encoder_attn.out_proj",
        "model.decoder.layers.0.encoder_attn.o_proj",
        "model.decoder.layers.1.self_attn.o_proj",
    ),
    (
        "model.encoder.layers.0.fc1",
        "model.encoder.layers.0.mlp.fc1",
        "model.encoder.layers.1.mlp.fc2",
    ),
]


@pytest.mark.parametrize(("old", "new", "other"), RENAMED)
def test_an_old_name_is_changed_where_others_have_new_ones(old: str, new: str, other: str) -> None:
    assert layer_renames([[old], [other]]) == {old: new}
    assert layer_renames([[old], [old]]) == {}
    assert layer_renames([[new], [other]]) == {}
    assert in_new_layers(old) == in_new_layers(new)
    assert in_new_layers(f"{old}.weight") == in_new_layers(f"{new}.weight")


def test_models_that_were_not_renamed_keep_their_names() -> None:
    bert = "bert.encoder.layer.0.attention.self.query"
    assert layer_renames([[bert], ["bert.encoder.layer.0.output.dense"]]) == {}
    clip = "vision_model.encoder.layers.0."
    assert layer_renames([[f"{clip}self_attn.out_proj"], [f"{clip}mlp.fc1"]]) == {}
    dino = ["encoder.layer.0.attention.attention.query", "encoder.layer.0.mlp.fc1"]
    assert layer_renames([dino, ["encoder.layer.0.mlp.fc1"]]) == {}


def test_an_adapter_with_both_forms_leaves_all_as_they_are() -> None:
    old, new, _ = RENAMED[0]
    assert layer_renames([[old, new], [new]]) == {}


@pytest.mark.parametrize(("old", "new", "other"), RENAMED)
def test_the_files_of_a_base_model_may_have_either(old: str, new: str, other: str) -> None:
    assert BaseNames([f"{old}.weight"], [new]).find(f"{new}.weight") == f"{old}.weight"
    assert BaseNames([f"{new}.weight"], [old]).find(f"{old}.weight") == f"{new}.weight"


def test_the_prefix_of_a_task_and_the_names_of_layers_may_differ_at_once() -> None:
    old, new, _ = RENAMED[0]
    bare = old.removeprefix("vit.")
    assert BaseNames([f"{bare}.weight"], [new]).find(f"{new}.weight") == f"{bare}.weight"


@pytest.mark.parametrize(
    ("tensors", "path", "found"),
    [
        # A bare model's adapter on the files of a causal one, and the reverse.
        (["model.layers.0.q", "lm_head"], "layers.0.q", "model.layers.0.q"),
        (["layers.0.q", "norm"], "model.layers.0.q", "layers.0.q"),
        (["transformer.h.0.q", "lm_head"], "h.0.q", "transformer.h.0.q"),
        (["h.0.q", "ln_f"], "transformer.h.0.q", "h.0.q"),
        # Of a vision-language model, in both trees.
        (["model.language_model.layers.0.q"], "language_model.layers.0.q", None),
        (["model.layers.0.q", "visual.blocks.0.qkv"], "language_model.layers.0.q", None),
        (["language_model.model.layers.0.q"], "language_model.layers.0.q", None),
    ],
)
def test_the_first_name_that_a_task_adds_may_be_missing_on_either_side(
    tensors: list[str], path: str, found: str | None
) -> None:
    names = BaseNames([f"{name}.weight" for name in tensors], [path])
    assert names.find(f"{path}.weight") == f"{found or tensors[0]}.weight"


def test_all_parts_of_a_bare_vision_language_model_are_found_at_once() -> None:
    paths = ["language_model.layers.0.q", "visual.blocks.0.qkv"]
    for tensors in (
        ["model.layers.0.q.weight", "visual.blocks.0.qkv.weight", "lm_head.weight"],
        ["model.language_model.layers.0.q.weight", "model.visual.blocks.0.qkv.weight"],
    ):
        names = BaseNames(tensors, paths)
        assert [names.find(f"{path}.weight") for path in paths] == tensors[:2]


def test_two_tensors_that_would_have_one_name_are_found_by_their_own_alone() -> None:
    tensors = ["layers.0.fc1.weight", "layers.0.mlp.fc1.weight"]
    for tensor in tensors:
        assert BaseNames(tensors, [tensor.removesuffix(".weight")]).find(tensor) == tensor
