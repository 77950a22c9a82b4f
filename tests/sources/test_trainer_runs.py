"""A training run is one adapter: what is taken of it, what is passed over, and what is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import lego_ray
from lego_ray.cli.main import main
from lego_ray.errors import InvalidOption, StrictRefusal
from tests.image_zoo import write_kohya
from tests.sources.trainer_output import (
    diffusers_run,
    epochs_run,
    files_run,
    hf_run,
    mlx_run,
    trl_run,
)
from tests.tiny_models import gpt2
from tests.zoo import CONFIG, WEIGHTS, write_adapter, write_zoo

TIME = "2026-01-02_03-04-05"
LATER = "2026-01-02_04-04-05"


def taken(record: dict[str, Any], root: Path) -> list[str]:
    """Paths below a root of what a scan takes."""
    return sorted(str(Path(a["uri"]).relative_to(root)) for a in record["adapters"])


def hidden(record: dict[str, Any], root: Path) -> dict[str, list[str]]:
    """What was passed over, by what was taken instead."""
    return {
        str(Path(run["adapter"]).relative_to(root)): [
            str(Path(uri).relative_to(root)) for uri in run["checkpoints"]
        ]
        for run in record["passed_over"]
    }


def write_file(path: Path) -> None:
    """A file that is no adapter."""
    path.parent.mkdir()
    path.write_bytes(b"x")


Make = Callable[[Path], object]
RUNS: dict[str, tuple[Make, str, int]] = {
    "hf": (lambda root: hf_run(root), ".", 3),
    "hf without a final one": (
        lambda root: hf_run(root, steps=(900, 1000), final=False),
        "checkpoint-1000",
        1,
    ),
    "checkpoint-final": (
        lambda root: epochs_run(root, ("checkpoint-100", "checkpoint-200", "checkpoint-final")),
        "checkpoint-final",
        2,
    ),
    "accelerate": (
        lambda root: epochs_run(root, ("checkpoint_9", "checkpoint_10")),
        "checkpoint_10",
        1,
    ),
    "diffusion-pipe": (
        lambda root: epochs_run(root, ("epoch9", "epoch10", "step500"), evidence="latest"),
        "epoch10",
        2,
    ),
    "torchtune": (
        lambda root: epochs_run(root, ("epoch_0", "epoch_1"), evidence="events.out.tfevents.1"),
        "epoch_1",
        1,
    ),
    "torchtune by its state": (
        lambda root: write_file(
            epochs_run(root, ("epoch_0", "epoch_1")) / "recipe_state" / "recipe_state.pt"
        ),
        "epoch_1",
        1,
    ),
    "best and last": (lambda root: epochs_run(root, ("best", "last")), "last", 1),
    "best beside checkpoints": (
        lambda root: epochs_run(root, ("best", "checkpoint-1", "checkpoint-2")),
        "checkpoint-2",
        2,
    ),
    "trl with a reference": (lambda root: trl_run(root), ".", 5),
    "trl with a reference, without a final one": (
        lambda root: trl_run(root, final=False),
        "checkpoint-200",
        3,
    ),
    "diffusers": (lambda root: diffusers_run(root), "pytorch_lora_weights.safetensors", 2),
    "kohya": (
        lambda root: files_run(root, ("x-000002", "x-000004", "x-step00000500", "x")),
        "x.safetensors",
        3,
    ),
    "kohya's states": (
        lambda root: files_run(root, ("x-000002-state/model", "x-state/model", "x-000002", "x")),
        "x.safetensors",
        3,
    ),
    "kohya without a name": (
        lambda root: files_run(root, ("epoch-000001", "at-step00000100", "last")),
        "last.safetensors",
        2,
    ),
    "kohya without a final one, by its headers": (
        lambda root: files_run(
            root,
            ("x-000002", "x-000010"),
            {
                "x-000002": {"ss_output_name": "x", "ss_epoch": "2"},
                "x-000010": {"ss_output_name": "x", "ss_epoch": "10"},
            },
        ),
        "x-000010.safetensors",
        1,
    ),
    "ai-toolkit": (
        lambda root: files_run(root, ("x_000000250", "x_000000500", "x")),
        "x.safetensors",
        2,
    ),
    "ai-toolkit without a final one, by its headers": (
        lambda root: files_run(
            root,
            ("x_000000250", "x_000000500"),
            {
                f"x_{n:09d}": {"training_info": json.dumps({"step": n, "epoch": 1})}
                for n in (250, 500)
            },
        ),
        "x_000000500.safetensors",
        1,
    ),
    "OneTrainer": (
        lambda root: files_run(
            root,
            (
                f"save/x{TIME}-save-500-5-0",
                f"save/x{LATER}-save-100-1-0",
                f"backup/{TIME}-backup-400-4-0/lora/lora",
            ),
        ),
        f"save/x{LATER}-save-100-1-0.safetensors",
        2,
    ),
    "mlx": (lambda root: mlx_run(root), ".", 2),
    "verl": (
        lambda root: epochs_run(
            root, ("global_step_90/actor/lora_adapter", "global_step_100/actor/lora_adapter")
        ),
        "global_step_100/actor/lora_adapter",
        1,
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_is_one_adapter(kind: str, tmp_path: Path) -> None:
    make, adapter, others = RUNS[kind]
    make(tmp_path / "run")
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path / "run") == [adapter]
    assert [len(run) for run in hidden(record, tmp_path).values()] == [others]
    assert (record["refused"], record["warnings"]) == ([], [])
    everything = lego_ray.scan(tmp_path, checkpoints="all")
    assert len(everything["adapters"]) == others + 1
    assert (everything["passed_over"], everything["warnings"]) == ([], [])


def test_runs_below_one_source_are_told_apart(tmp_path: Path) -> None:
    hf_run(tmp_path / "a")
    hf_run(tmp_path / "deep" / "b", final=False)
    write_zoo(tmp_path / "zoo", 2)
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == ["a", "deep/b/checkpoint-1000", "zoo/a0", "zoo/a1"]
    assert hidden(record, tmp_path) == {
        "a": ["a/checkpoint-100", "a/checkpoint-1000", "a/checkpoint-500"],
        "deep/b/checkpoint-1000": ["deep/b/checkpoint-100", "deep/b/checkpoint-500"],
    }


LEFT_ALONE: dict[str, Make] = {
    "tasks": lambda root: files_run(root, ("task_1", "task_2", "task_3")),
    "customers": lambda root: files_run(root, ("customer-000001", "customer-000002")),
    "versions": lambda root: files_run(root, ("style", "style-v2", "style-2")),
    "narrow numbers": lambda root: files_run(root, ("x", "x-00002", "x_00000250", "x-step500")),
    "steps": lambda root: epochs_run(root, ("step1", "step2")),
    "epochs": lambda root: epochs_run(root, ("epoch_1", "epoch_2")),
    "numbers": lambda root: epochs_run(root, ("1", "2", "run-3")),
    "references without an adapter above": lambda root: (
        write_adapter(root / "a" / "ref", seed=1),
        write_adapter(root / "b" / "ref", seed=2),
    ),
    "by language below one": lambda root: (
        write_adapter(root, seed=1),
        write_adapter(root / "french", seed=2),
    ),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_adapters_with_numbers_in_their_names_are_all_taken(kind: str, tmp_path: Path) -> None:
    LEFT_ALONE[kind](tmp_path / "zoo")
    record = lego_ray.scan(tmp_path / "zoo")
    everything = lego_ray.scan(tmp_path / "zoo", checkpoints="all")
    assert len(record["adapters"]) == len(everything["adapters"]) > 1
    assert record["passed_over"] == []
    doubtful = kind in ("customers", "steps", "epochs")
    assert [("named like checkpoints" in w) for w in record["warnings"]] == [True] * doubtful


def test_a_checkpoint_of_other_ranks_is_an_adapter_and_said(tmp_path: Path) -> None:
    hf_run(tmp_path / "run", steps=(100,))
    write_adapter(tmp_path / "run" / "checkpoint-200", seed=2, rank=2)
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == ["run", "run/checkpoint-200"]
    [warning] = record["warnings"]
    assert "checkpoint-200 lies where a checkpoint of" in warning


def test_a_frozen_copy_that_peft_saved_is_passed_over_for_what_was_trained_from_it(
    tmp_path: Path,
) -> None:
    asked = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
    model = get_peft_model(gpt2(), asked)
    model.add_adapter("ref", model.peft_config["default"])
    model.save_pretrained(str(tmp_path / "dpo"))
    assert (tmp_path / "dpo" / "ref" / CONFIG).exists()
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == ["dpo"]
    [run] = record["passed_over"]
    assert run["why"] == "the adapter that was trained from it"
    shown = {Path(each.uri).name: each.status for each in lego_ray.inspect(tmp_path).found}
    assert (shown["dpo"], shown["ref"]) == ("taken", "passed over")


def test_a_reference_of_other_ranks_and_one_that_is_a_source_are_taken(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run", seed=1)
    write_adapter(tmp_path / "run" / "ref", seed=2, rank=2)
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == ["run", "run/ref"]
    assert len(record["warnings"]) == 1
    assert taken(lego_ray.scan(tmp_path / "run" / "ref"), tmp_path) == ["run/ref"]


def test_files_of_one_stem_with_other_ranks_stay_apart(tmp_path: Path) -> None:
    write_kohya(tmp_path / "x.safetensors", rank=4)
    write_kohya(tmp_path / "x-000002.safetensors", rank=2)
    record = lego_ray.scan(tmp_path)
    assert len(record["adapters"]) == 2
    assert len(record["warnings"]) == 1


def test_files_whose_headers_name_other_runs_stay_apart(tmp_path: Path) -> None:
    names = ("customer", "customer-000001", "customer-000002")
    files_run(tmp_path, names, {name: {"ss_output_name": name} for name in names})
    record = lego_ray.scan(tmp_path)
    assert len(record["adapters"]) == 3
    assert record["passed_over"] == []
    assert all("another name in its header" in w for w in record["warnings"])
    assert len(record["warnings"]) == 2


def test_saves_with_other_prefixes_in_one_workspace_are_other_runs(tmp_path: Path) -> None:
    files_run(
        tmp_path,
        (
            f"save/cat{TIME}-save-500-5-0",
            f"save/cat{LATER}-save-600-6-0",
            f"save/dog{LATER}-save-100-1-0",
            f"backup/{LATER}-backup-50-0-50/lora/lora",
        ),
    )
    cat, dog = f"save/cat{LATER}-save-600-6-0", f"save/dog{LATER}-save-100-1-0"
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == [f"{cat}.safetensors", f"{dog}.safetensors"]
    assert sum(len(run) for run in hidden(record, tmp_path).values()) == 2


def test_what_was_passed_over_for_a_checkpoint_goes_with_it(tmp_path: Path) -> None:
    for place in (".", "checkpoint-10", "checkpoint-20"):
        write_adapter(tmp_path / "run" / place, seed=1)
        write_adapter(tmp_path / "run" / place / "best", seed=2)
    record = lego_ray.scan(tmp_path)
    assert taken(record, tmp_path) == ["run"]
    assert [len(run) for run in hidden(record, tmp_path).values()] == [5]
    assert lego_ray.plan(tmp_path, rank=4).as_json()["passed_over"] == record["passed_over"]


def test_what_is_a_source_by_itself_is_taken(tmp_path: Path) -> None:
    run = hf_run(tmp_path / "run")
    record = lego_ray.scan([run / "checkpoint-100", run / "checkpoint-500"])
    assert taken(record, run) == ["checkpoint-100", "checkpoint-500"]
    assert ["was named as a source" in w for w in record["warnings"]] == [True]
    record = lego_ray.scan([run, run / "checkpoint-500"])
    assert taken(record, run) == [".", "checkpoint-500"]
    assert hidden(record, run) == {".": ["checkpoint-100", "checkpoint-1000"]}
    files = files_run(tmp_path / "files", ("x", "x-000002", "x-000004"))
    record = lego_ray.scan([files / "x-000002.safetensors", files / "x-000004.safetensors"])
    assert len(record["adapters"]) == 2
    mlx = mlx_run(tmp_path / "mlx")
    record = lego_ray.scan(mlx / "0000100_adapters.safetensors")
    assert taken(record, mlx) == ["0000100_adapters.safetensors"]


def test_a_source_below_a_checkpoint_has_no_number_of_its_own(tmp_path: Path) -> None:
    for step in (1, 2):
        write_zoo(tmp_path / f"checkpoint-{step}" / "zoo", 2)
    record = lego_ray.scan([tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"])
    assert len(record["adapters"]) == 4


def test_exclude_chooses_another_checkpoint(tmp_path: Path) -> None:
    epochs_run(tmp_path, ("best", "last"))
    assert taken(lego_ray.scan(tmp_path, exclude=["last"]), tmp_path) == ["best"]


def test_a_damaged_checkpoint_is_of_no_account_and_a_damaged_last_one_is_said(
    tmp_path: Path,
) -> None:
    run = hf_run(tmp_path / "run")
    (run / "checkpoint-100" / WEIGHTS).write_bytes(b"x")
    assert lego_ray.scan(tmp_path, strict=True)["refused"] == []
    run = hf_run(tmp_path / "cut", final=False)
    (run / "checkpoint-1000" / WEIGHTS).write_bytes(b"x")
    record = lego_ray.scan(run)
    assert taken(record, run) == ["checkpoint-500"]
    assert [Path(r["adapter"]).name for r in record["refused"]] == ["checkpoint-1000"]
    with pytest.raises(StrictRefusal):
        lego_ray.scan(run, strict=True)


def test_plan_and_merge_say_it_and_the_digest_is_that_of_the_adapter_alone(tmp_path: Path) -> None:
    hf_run(tmp_path / "zoo" / "run")
    write_adapter(tmp_path / "zoo" / "other", seed=7)
    plan = lego_ray.plan(tmp_path / "zoo", rank=4, name="m")
    said = plan.as_json()
    [entry] = said["passed_over"]
    assert entry["why"] == "the final adapter of its run"
    assert len(entry["checkpoints"]) == 3
    alone = lego_ray.plan([tmp_path / "zoo" / "run", tmp_path / "zoo" / "other"], rank=4, name="m")
    assert alone.digest == plan.digest
    options: dict[str, Any] = {"rank": 4, "name": "m", "method": "svd", "runner": "inline"}
    record = lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", **options)
    assert record["passed_over"] == said["passed_over"]
    again = lego_ray.merge(tmp_path / "zoo", output=tmp_path / "m", **options)
    assert (again["status"], again["passed_over"]) == ("already published", said["passed_over"])
    both = lego_ray.merge(tmp_path / "zoo", output=tmp_path / "all", checkpoints="all", **options)
    assert (len(both["adapters"]), both["passed_over"]) == (5, [])


def test_a_merge_of_one_checkpoint_of_mlx_is_that_file(tmp_path: Path) -> None:
    run = mlx_run(tmp_path / "run")
    file = run / "0000100_adapters.safetensors"
    lego_ray.merge(
        file, rank=2, output=tmp_path / "m", method="svd", runner="inline", base_model="b"
    )
    assert lego_ray.verify(tmp_path / "m", sources=file)["errors"]["relative_error_to_sum"] < 1e-6
    stored = load_file(tmp_path / "m" / WEIGHTS)
    source = load_file(file)
    site = "model.layers.0.q_proj"
    merged = (
        stored[f"base_model.model.{site}.lora_B.weight"]
        @ stored[f"base_model.model.{site}.lora_A.weight"]
    )
    wanted = 2.0 * (source[f"{site}.lora_a"] @ source[f"{site}.lora_b"]).T
    assert (merged - wanted).norm() / wanted.norm() < 1e-6


def test_verify_finds_checkpoints_that_were_merged(tmp_path: Path) -> None:
    zoo = hf_run(tmp_path / "run")
    options: dict[str, Any] = {"rank": 4, "method": "svd", "runner": "inline", "checkpoints": "all"}
    lego_ray.merge(zoo, output=tmp_path / "m", **options)
    assert lego_ray.verify(tmp_path / "m", sources=zoo)["errors"]["sources"][3]["sites"] == 4


def test_update_and_refit_know_runs(tmp_path: Path) -> None:
    zoo, new = write_zoo(tmp_path / "zoo", 2), hf_run(tmp_path / "new")
    lego_ray.merge(zoo, rank=4, output=tmp_path / "m", updatable=True, runner="inline")
    updated = lego_ray.update(tmp_path / "m", add=new, runner="inline")
    assert updated["added"] == [str(new)]
    assert [len(run["checkpoints"]) for run in updated["passed_over"]] == [3]
    refit = lego_ray.update(tmp_path / "m-v2", refit=True, runner="inline")
    assert sorted(refit["adapters"]) == sorted(updated["adapters"])


def test_a_library_s_recipe_and_flag(tmp_path: Path) -> None:
    hf_run(tmp_path / "zoo" / "run")
    recipe = tmp_path / "library.yaml"
    text = f"sources: [{tmp_path}/zoo]\nmerges:\n  - {{name: m, rank: 4, method: svd}}\n"
    recipe.write_text(text)
    options: dict[str, Any] = {"runner": "inline", "dry_run": True, "output": tmp_path / "library"}
    record = lego_ray.build(recipe, **options)
    assert record["adapters"] == 1
    assert record["passed_over"] == record["merges"][0]["passed_over"] != []
    assert lego_ray.build(recipe, checkpoints="all", **options)["adapters"] == 4
    recipe.write_text(f"checkpoints: all\n{text}")
    assert lego_ray.build(recipe, **options)["adapters"] == 4
    assert lego_ray.build(recipe, checkpoints="last", **options)["adapters"] == 1
    refreshed = lego_ray.refresh(
        recipe, output=tmp_path / "r", catalog=tmp_path / "c", checkpoints="last", runner="inline"
    )
    assert (refreshed["adapters"], len(refreshed["passed_over"])) == (1, 1)


def test_the_terminal_says_it_in_one_line_per_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hf_run(tmp_path / "run")
    for command in (["scan", str(tmp_path)], ["plan", str(tmp_path), "--rank", "2"]):
        main(command)
        said = capsys.readouterr().out
        [line] = [line for line in said.splitlines() if line.startswith("passed over")]
        assert line == (
            f"passed over 3 checkpoints of {run}, the final adapter of its run (checkpoint-100, "
            "checkpoint-1000, checkpoint-500); --checkpoints all takes them too"
        )
        main([*command, "--checkpoints", "all"])
        assert "passed over" not in capsys.readouterr().out
    with pytest.raises(InvalidOption, match="'some' is not one of last, all"):
        lego_ray.scan(tmp_path, checkpoints="some")


def test_a_configuration_is_needed_in_each_checkpoint(tmp_path: Path) -> None:
    run = hf_run(tmp_path / "run")
    (run / "checkpoint-100" / CONFIG).unlink()
    assert taken(lego_ray.scan(tmp_path), tmp_path) == ["run"]
