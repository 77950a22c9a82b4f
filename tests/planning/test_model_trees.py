"""Old and new module trees of vision-language models, by the names alone."""

from __future__ import annotations

import pytest

from lego_ray.planning.model_trees import in_new_tree, tree_renames

NEW = "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("language_model.model.layers.0.self_attn.q_proj", NEW),
        ("model.language_model.model.layers.0.self_attn.q_proj", NEW),
        ("model.layers.0.self_attn.q_proj", NEW),
        ("model.embed_tokens", "model.language_model.embed_tokens"),
        ("language_model.lm_head", "lm_head"),
        ("visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"),
        ("vision_tower.encoder.layers.0.fc1", "model.vision_tower.encoder.layers.0.fc1"),
        ("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1"),
    ],
)
def test_a_name_of_an_old_tree_is_renamed_where_others_have_the_new_one(old: str, new: str) -> None:
    assert in_new_tree(old) == new
    assert in_new_tree(new) == new
    assert tree_renames([[old], [NEW]]) == {old: new}
    assert tree_renames([[old]]) == {}
    assert tree_renames([[old], [old, "lm_head"]]) == {}


def test_what_one_adapter_has_beside_the_new_tree_is_not_of_the_old_one() -> None:
    mixed = [NEW, "vision_tower.encoder.layers.0.fc1"]
    assert tree_renames([mixed, ["vision_tower.encoder.layers.0.fc1"]]) == {}
    old = "language_model.model.layers.0.self_attn.q_proj"
    assert tree_renames([mixed, [old, "vision_tower.encoder.layers.0.fc1"]]) == {old: NEW}


def test_names_that_would_become_one_stay() -> None:
    both = ["language_model.model.layers.0.q", "model.layers.0.q"]
    assert tree_renames([both, [NEW]]) == {}
    assert tree_renames([["model.layers.0.q", NEW], ["model.layers.0.q"]]) == {}
