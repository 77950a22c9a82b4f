"""What `inspect` says of files of all kinds, and that it reads headers only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import lego_ray
from lego_ray.cli.main import cli
from lego_ray.errors import InvalidOption, ObjectNotFound, ScanLimitReached
from lego_ray.sources.inspection import Inspection
from lego_ray.storage import open_store
from tests.image_zoo import write_kohya
from tests.storage.fake_hub import FakeHub, used_hub
from tests.zoo import (
    CONFIG,
    CONV,
    EMBEDDING,
    LINEAR,
    WEIGHTS,
    Site,
    wide_site,
    write_adapter,
    write_zoo,
)


def the_one(place: Path | str) -> Inspection:
    record = lego_ray.inspect(place)
    [found] = record.found
    return found


def refusals(place: Path) -> dict[str, str]:
    """Reasons by URI, as a plan of the place and a good adapter beside it says them."""
    write_adapter(place / "good", seed=3)
    return {each.uri: each.reason for each in lego_ray.plan(place, rank=2).refused}


def test_an_adapter_is_described_by_its_headers(tmp_path: Path) -> None:
    path = write_adapter(
        tmp_path / "a",
        rank=4,
        alpha=8,
        rank_pattern={"layers.0.q_proj": 2},
        alpha_pattern={"layers.1.v_proj": 1},
        sites=(*LINEAR, EMBEDDING, CONV),
        auto_mapping={"base_model_class": "TinyModel"},
    )
    (path / "README.md").write_text("---\nlicense: mit\ntags: [task:qa]\n---\n")
    (path / "value_head.safetensors").write_bytes(b"")
    found = the_one(path)
    assert (found.uri, found.status, found.reason) == (str(path), "taken", None)
    assert (found.weights, found.revision) == (str(path / WEIGHTS), None)
    assert (found.layout, found.merged_into) == ("peft", "peft")
    assert (found.base_model, found.architecture) == ("tiny/base", "TinyModel")
    assert (found.license, found.tags) == ("mit", {"task": "qa"})
    assert (found.n_sites, found.kinds) == (6, {"conv": 1, "embedding": 1, "linear": 4})
    assert {(m["module"], m["kind"], m["sites"], m["rank_min"]) for m in found.modules} == {
        ("conv", "conv", 1, 4),
        ("emb", "embedding", 1, 4),
        ("layers.*.q_proj", "linear", 2, 2),
        ("layers.*.v_proj", "linear", 2, 4),
    }
    assert found.ranks == ({"rank": 2, "sites": 1}, {"rank": 4, "sites": 5})
    assert found.scales == (
        {"scale": 0.25, "sites": 1},
        {"scale": 2.0, "sites": 4},
        {"scale": 4.0, "sites": 1},
    )
    tensors = load_file(path / WEIGHTS)
    n_bytes = sum(4 * t.numel() for t in tensors.values())
    assert found.dtypes == ({"dtype": "F32", "tensors": 12, "bytes": n_bytes},)
    assert found.n_tensors == sum(t["count"] for t in found.tensors) == 12
    assert found.n_params == sum(t.numel() for t in tensors.values())
    [adapter] = lego_ray.scan(path).adapters
    assert (found.adapter_id, found.n_bytes) == (adapter["adapter_id"], adapter["n_bytes"])
    assert found.notes == tuple(note["note"] for note in lego_ray.scan(path).notes)
    assert len(found.notes) == 1
    assert the_one(path / CONFIG) == found
    assert the_one(path / WEIGHTS).scales == found.scales  # nothing is looked for beside a file


def test_what_is_refused_is_described_too_with_the_reason_of_a_plan(tmp_path: Path) -> None:
    head = {"base_model.model.score.weight": torch.ones(3, 10)}
    write_adapter(tmp_path / "head", full_weights=head, modules_to_save=["score"])
    write_adapter(tmp_path / "dora", use_dora=True)
    write_adapter(tmp_path / "half")
    (tmp_path / "half" / WEIGHTS).unlink()
    loha = {
        f"lora_unet_a.hada_w{n}_{half}": torch.ones(2, 4) for n in "12" for half in "ab"
    }  # ranks 4 and 2
    save_file(loha, tmp_path / "loha.safetensors")
    found = {Path(each.uri).name: each for each in lego_ray.inspect(tmp_path).found}
    assert {each.status for each in found.values()} == {"refused"}
    reasons = refusals(tmp_path)
    assert {each.uri: each.reason for each in found.values()} == reasons
    assert "--full-weights drop" in (found["head"].reason or "")
    score = {"tensor": "base_model.model.score.weight", "dtype": "F32", "shape": [3, 10]}
    assert found["head"].extra_weights == (score,)
    assert (found["head"].n_sites, found["head"].layout) == (4, "peft")
    assert (found["dora"].n_sites, found["dora"].layout) == (0, "peft")
    assert found["dora"].base_model == "tiny/base"
    assert found["dora"].n_tensors == 8
    assert found["dora"].tensors[0]["tensor"] == "base_model.model.layers.*.q_proj.lora_A.weight"
    assert (found["half"].weights, found["half"].n_tensors) == (None, 0)
    assert (found["loha.safetensors"].n_tensors, found["loha.safetensors"].layout) == (4, "kohya")


def test_a_scale_in_a_tensor_is_told_if_it_came_with_the_header(tmp_path: Path) -> None:
    write_kohya(
        tmp_path / "a.safetensors", rank=4, alpha=2, metadata={"ss_base_model_version": "x"}
    )
    found = the_one(tmp_path / "a.safetensors")
    assert (found.layout, found.merged_into, found.architecture) == ("kohya", "kohya", "x")
    assert [each["scale"] for each in found.scales] == [0.5]
    assert found.scales_unread == 0
    names = [f"lora_unet_block_{n}_attn" for n in range(3)]
    pairs = {
        f"{name}.lora_{half}.weight": torch.ones(64, 64, 8, 8)
        for name in names
        for half in ("down",)
    }
    pairs |= {f"{name}.lora_up.weight": torch.ones(64, 64, 1, 1) for name in names}
    pairs |= {f"{name}.alpha": torch.tensor(32.0) for name in names}
    save_file(pairs, tmp_path / "b.safetensors")
    found = the_one(tmp_path / "b.safetensors")
    assert found.scales == ({"scale": 0.5, "sites": 1},)
    assert (found.scales_unread, found.n_sites) == (2, 3)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "model.safetensors",
            {"model.embed.weight": torch.ones(4, 4)},
            "such as model.embed.weight",
        ),
        ("notes.txt", b"hello", "not a type of file that adapters are in"),
        ("optimizer.pt", b"PK", "a trainer goes on from"),
        ("old.ckpt", b"\x80\x02", "no name in its first bytes"),
        ("broken.safetensors", b"\xff" * 40, "header"),
    ],
)
def test_files_that_are_not_adapters_are_named(
    tmp_path: Path, name: str, content: Any, why: str
) -> None:
    place = tmp_path / name
    if isinstance(content, bytes):
        place.write_bytes(content)
    else:
        save_file(content, place)
    found = the_one(place)
    assert (found.uri, found.status) == (str(place), "not an adapter")
    assert why in (found.reason or "")
    assert found.n_bytes == place.stat().st_size
    done = CliRunner().invoke(cli, ["inspect", str(place)])
    assert done.exit_code == 1
    assert why in done.stdout
    printed = json.loads(CliRunner().invoke(cli, ["inspect", str(place), "--json"]).stdout)
    assert printed["found"] == [json.loads(json.dumps(found))]
    assert "error" not in printed


def test_a_folder_has_a_line_for_each_and_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    write_adapter(tmp_path / "run", seed=1)
    write_adapter(tmp_path / "run" / "checkpoint-10", seed=1)
    write_adapter(tmp_path / "bad", use_dora=True)
    (tmp_path / "base").mkdir()
    save_file({"embed.weight": torch.ones(4, 4)}, tmp_path / "base" / "model.safetensors")
    record = lego_ray.inspect(tmp_path)
    assert (record.taken, record.refused, record.passed_over, record.others) == (1, 1, 1, 1)
    [old] = [each for each in record.found if each.status == "passed over"]
    assert f"it is a checkpoint of {tmp_path}/run" in (old.reason or "")
    assert the_one(tmp_path / "run" / "checkpoint-10").status == "taken"
    done = CliRunner().invoke(cli, ["inspect", str(tmp_path)])
    assert done.exit_code == 0
    assert "DoRA rescales" in done.stdout
    assert (
        "1 adapter a merge takes, 1 refused, 1 passed over; 1 other file, which is not an adapter;"
        in done.stdout
    )
    one = CliRunner().invoke(cli, ["inspect", str(tmp_path / "run" / "checkpoint-10")]).stdout
    assert "layers.*.q_proj" in one
    assert CliRunner().invoke(cli, ["inspect", str(tmp_path / "bad")]).exit_code == 1


def test_what_is_not_there_and_what_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound):
        lego_ray.inspect(tmp_path / "gone")
    with pytest.raises(ObjectNotFound):
        lego_ray.inspect(tmp_path / "gone.txt")
    assert lego_ray.inspect(tmp_path).found == ()
    assert CliRunner().invoke(cli, ["inspect", str(tmp_path)]).exit_code == 1


def test_it_reads_headers_only_and_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2, sites=wide_site(2048), rank=64)
    record = lego_ray.inspect(zoo)
    assert record.taken == 2
    assert record.bytes_read == lego_ray.scan(zoo).bytes_read < 2 * 200 * 1024
    with pytest.raises(ScanLimitReached):
        lego_ray.inspect(zoo, scan_limits={"adapters": 1})
    code = (
        "import sys; from lego_ray.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'loaded'"
    )
    words = [sys.executable, "-c", code, "inspect", str(zoo / "a0")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with used_hub(monkeypatch) as hub:
        yield hub


def test_repositories_files_of_them_and_lists_are_places_too(hub: FakeHub, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", 2)
    files = {str(p.relative_to(zoo)): p.read_bytes() for p in zoo.rglob("*") if p.is_file()}
    commit = hub.commit({**files, "notes.txt": b"hello", "list.txt": b"a1\n"})
    at = f"hf://org/zoo@{commit}"
    assert [each.uri for each in lego_ray.inspect("hf://org/zoo").found] == [f"{at}/a0", f"{at}/a1"]
    found = the_one("hf://org/zoo/a0")
    assert (found.revision, found.status, found.n_sites) == (commit, "taken", 4)
    assert the_one("hf://org/zoo/notes.txt").status == "not an adapter"
    assert the_one("@hf://org/zoo/list.txt").uri == f"{at}/a1"


@pytest.mark.s3
def test_a_bucket_has_files_folders_and_lists_too(s3_bucket: str, tmp_path: Path) -> None:
    zoo, store = write_zoo(tmp_path / "zoo", 2), open_store(f"s3://{s3_bucket}/zoo.v1")
    for path in zoo.rglob("*.*"):
        store.create(str(path.relative_to(zoo)), path.read_bytes())
    store.create("lists/one.txt", b"../a1\n")
    store.create("here.txt", b"a1  # this one\n")
    at = f"s3://{s3_bucket}/zoo.v1"
    assert [each.uri for each in lego_ray.inspect(at).found] == [f"{at}/a0", f"{at}/a1"]
    assert the_one(f"@{at}/here.txt").uri == f"{at}/a1"
    assert the_one(f"{at}/here.txt").status == "not an adapter"
    assert the_one(f"{at}/a0/{WEIGHTS}").uri == the_one(f"{at}/a0/{CONFIG}").uri == f"{at}/a0"
    with pytest.raises(InvalidOption, match="leads out of the folder"):
        lego_ray.inspect(f"@{at}/lists/one.txt")


def test_names_of_modules_tell_the_model_where_the_header_does_not(tmp_path: Path) -> None:
    names = [f"diffusion_model.double_blocks.{n}.img_attn.proj" for n in range(2)]
    pairs = {f"{name}.lora_A.weight": torch.ones(2, 8) for name in names}
    pairs |= {f"{name}.lora_B.weight": torch.ones(8, 2) for name in names}
    save_file(pairs, tmp_path / "a.safetensors")
    found = the_one(tmp_path / "a.safetensors")
    assert (found.layout, found.status) == ("comfyui", "taken")
    assert found.architecture.startswith("Flux")


def _pair(*stems: str, ends: tuple[str, str] = (".lora_down.weight", ".lora_up.weight")) -> Any:
    return {
        stem + end: torch.ones(shape)
        for stem in stems
        for end, shape in zip(ends, ((2, 8), (8, 2)), strict=True)
    }


_KOHYA = _pair("lora_unet_double_blocks_0_img_attn_proj")
_COMFY = _pair(
    "diffusion_model.double_blocks.0.img_attn.proj", ends=(".lora_A.weight", ".lora_B.weight")
)
_BARE = {"lora_unet_double_blocks_0_img_attn_proj.alpha": torch.tensor(2.0)}
LONE_EXTRAS: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]] = {
    "differences": (
        _KOHYA | _BARE,
        {
            "lora_unet_double_blocks_0_img_mlp_0.diff": torch.ones(8, 8),
            "lora_unet_double_blocks_0_img_mlp_0.diff_b": torch.ones(8),
            "lora_unet_double_blocks_0_img_mod.diff_m": torch.ones(6, 8),
        },
        "refused",
    ),
    "norms of LyCORIS": (
        _KOHYA,
        {
            "lora_unet_double_blocks_0_norm1.w_norm": torch.ones(8),
            "lora_unet_double_blocks_0_norm1.b_norm": torch.ones(8),
        },
        "refused",
    ),
    "a weight that replaces another": (
        _COMFY,
        {"diffusion_model.img_in.set_weight": torch.ones(8, 16)},
        "refused",
    ),
    "a weight of another shape": (
        _COMFY,
        {"diffusion_model.img_in.reshape_weight": torch.tensor([8, 16])},
        "refused",
    ),
    "norms of a control adapter": (
        _COMFY,
        {
            "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(4),
            "diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(4),
        },
        "refused",
    ),
    "embeddings of new words": (
        _KOHYA,
        {"bundle_emb.word.clip_l": torch.ones(2, 8), "bundle_emb.word.t5": torch.ones(2, 8)},
        "refused",
    ),
    "biases": (
        _COMFY,
        {"diffusion_model.double_blocks.0.img_attn.proj.lora_B.bias": torch.ones(8)},
        "refused",
    ),
    "beside DoRA": (
        _KOHYA | {"lora_unet_double_blocks_0_img_attn_proj.dora_scale": torch.ones(8, 1)},
        {"lora_unet_double_blocks_0_img_mlp_0.diff_b": torch.ones(8)},
        "refused",
    ),
    "beside other kinds": (
        {
            **{f"lora_unet_a.hada_w{n}_{half}": torch.ones(4, 4) for n in "12" for half in "ab"},
            **{"lora_unet_b.lokr_w1": torch.ones(2, 2), "lora_unet_b.lokr_w2": torch.ones(4, 4)},
            **_pair("lora_unet_c"),
            **{"lora_unet_c.scalar": torch.ones(()), "lora_unet_b.alpha": torch.ones(())},
        },
        {"lora_unet_a.diff_b": torch.ones(4)},
        "refused",
    ),
    "differences alone": (
        {},
        {
            "diffusion_model.img_in.diff": torch.ones(8, 16),
            "diffusion_model.img_in.diff_b": torch.ones(8),
        },
        "refused",
    ),
    "none": (_COMFY, {}, "taken"),
    "a method that is no pair of factors": (
        {"oft_unet_a.oft_blocks": torch.ones(2, 4, 4), "oft_unet_a.alpha": torch.ones(())},
        {},
        "refused",
    ),
}


@pytest.mark.parametrize("name", LONE_EXTRAS)
def test_what_a_single_file_has_beside_its_factors_is_listed(name: str, tmp_path: Path) -> None:
    factors, extra, status = LONE_EXTRAS[name]
    save_file({**factors, **extra}, tmp_path / "a.safetensors")
    found = the_one(tmp_path / "a.safetensors")
    assert found.status == status
    wanted = {key: list(tensor.shape) for key, tensor in extra.items()}
    assert {each["tensor"]: each["shape"] for each in found.extra_weights} == wanted
    printed = CliRunner().invoke(cli, ["inspect", str(tmp_path / "a.safetensors")]).stdout
    assert ("extra weight" in printed) == bool(wanted)
    if status == "refused" and wanted and factors and "DoRA" not in name:
        assert found.n_sites > 0
        assert "--full-weights" in (found.reason or "") or "reshape_weight" in (found.reason or "")


PEFT_EXTRAS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "biases": (
        {"lora_bias": True},
        {"base_model.model.layers.0.q_proj.lora_B.bias": torch.ones(8)},
        "refused",
    ),
    "rows of tokens": (
        {"trainable_token_indices": [1, 2]},
        {"base_model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 8)},
        "refused",
    ),
    "a norm": (
        {"modules_to_save": ["norm"]},
        {
            "base_model.model.layers.0.norm.weight": torch.ones(8),
            "base_model.model.layers.0.norm.bias": torch.ones(8),
        },
        "refused",
    ),
    "what nothing names": ({}, {"base_model.model.layers.0.norm.weight": torch.ones(8)}, "refused"),
    "a head beside DoRA": (
        {"use_dora": True, "modules_to_save": ["score"]},
        {"base_model.model.score.weight": torch.ones(3, 8)},
        "refused",
    ),
    "an embedding's own weights": (
        {},
        {"base_model.model.embed_tokens.base_layer.weight": torch.ones(20, 8)},
        "taken",
    ),
}


@pytest.mark.parametrize("name", PEFT_EXTRAS)
def test_what_an_adapter_of_peft_has_beside_its_factors_is_listed(
    name: str, tmp_path: Path
) -> None:
    fields, extra, status = PEFT_EXTRAS[name]
    embedding = Site("embed_tokens", (20,), 8, "embedding")
    sites = (*LINEAR, embedding) if status == "taken" else LINEAR
    path = write_adapter(tmp_path / "a", sites=sites, full_weights=extra, **fields)
    found = the_one(path)
    assert found.status == status
    wanted = {key: list(tensor.shape) for key, tensor in extra.items()}
    assert {each["tensor"]: each["shape"] for each in found.extra_weights} == wanted


def test_a_passed_over_checkpoint_and_wrapped_keys_list_their_extra_weights_too(
    tmp_path: Path,
) -> None:
    extra = {"base_model.model._orig_mod.layers.0.q_proj.lora_B.default.bias": torch.ones(8)}
    write_adapter(tmp_path / "a", full_weights=extra, lora_bias=True)
    [bias] = the_one(tmp_path / "a").extra_weights
    assert bias["tensor"] == next(iter(extra))


def test_many_extra_weights_are_printed_in_one_line_for_each_kind(tmp_path: Path) -> None:
    extra = {f"diffusion_model.blocks.{n}.ffn.0.diff_b": torch.ones(8) for n in range(40)}
    save_file({**_COMFY, **extra}, tmp_path / "a.safetensors")
    assert len(the_one(tmp_path / "a.safetensors").extra_weights) == 40
    printed = CliRunner().invoke(cli, ["inspect", str(tmp_path / "a.safetensors")]).stdout
    [line] = [
        each for each in printed.splitlines() if each.startswith("diffusion_model.blocks.*.ffn")
    ]
    assert line.split() == ["diffusion_model.blocks.*.ffn.*.diff_b", "40", "F32", "[8]"]


def test_other_files_are_counted_only_where_there_are_some(tmp_path: Path) -> None:
    write_zoo(tmp_path, 2)
    printed = CliRunner().invoke(cli, ["inspect", str(tmp_path)]).stdout
    assert "2 adapters a merge takes, 0 refused, 0 passed over; " in printed
    assert "other file" not in printed
    save_file({"embed.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    printed = CliRunner().invoke(cli, ["inspect", str(tmp_path)]).stdout
    assert "0 passed over; 1 other file, which is not an adapter; " in printed
