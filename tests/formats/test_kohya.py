"""kohya's files: read as kohya's arithmetic has it, refused by name, written back to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lego_ray.errors import (
    AdapterRefused,
    MalformedAdapter,
    NonFiniteWeights,
    RankMismatch,
    ShapeMismatch,
    UnsupportedAdapter,
)
from lego_ray.formats.kohya_writer import encode
from lego_ray.formats.merged import MergedSite
from tests.formats.lone import matrices, read, updates
from tests.image_zoo import write_kohya

# The same float64 products, of float32 factors that are exact.
EXACT = 1e-14
TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def held(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for site, update in wanted.items():
        np.testing.assert_allclose(got[site], update, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("alpha", [4, 1, 0.5, 7, -2, None])
def test_alpha_is_a_tensor_and_scales_the_update(
    alpha: float | None, dtype: str, tmp_path: Path
) -> None:
    wanted = write_kohya(tmp_path / "a.safetensors", alpha=alpha, dtype=dtype)
    record = read(tmp_path / "a.safetensors")
    held(updates(tmp_path / "a.safetensors", record), wanted)
    assert (record.format, record.base_model, record.dtype) == ("kohya", "sd_v1", dtype)
    assert record.folder == str(tmp_path)


def test_sites_keep_their_flattened_names_and_convolutions_their_shapes(tmp_path: Path) -> None:
    write_kohya(tmp_path / "a.safetensors")
    sites = {s.site: s for s in read(tmp_path / "a.safetensors").sites}
    assert (sites[TO_Q].kind, sites[TO_Q].a_tail, sites[TO_Q].d_out) == ("linear", (8,), 8)
    assert (sites[CONV].kind, sites[CONV].a_tail, sites[CONV].d_in) == ("conv", (8, 3, 3), 72)


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor(2),
        torch.tensor(2, dtype=torch.int32),
        torch.tensor(2, dtype=torch.uint8),
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor([2.0]),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_alpha_may_be_any_kind_of_number(alpha: torch.Tensor, tmp_path: Path) -> None:
    wanted = write_kohya(tmp_path / "a.safetensors", alphas={TO_Q: alpha})
    held(updates(tmp_path / "a.safetensors", read(tmp_path / "a.safetensors")), wanted)


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (torch.tensor(float("nan")), NonFiniteWeights, "alpha is nan"),
        (torch.tensor(float("inf")), NonFiniteWeights, "alpha is inf"),
        (torch.tensor(0.0), MalformedAdapter, "alpha is 0"),
        (torch.tensor([1.0, 2.0]), UnsupportedAdapter, r"F32 \[2\], expected one number"),
        (torch.tensor(True), UnsupportedAdapter, "is BOOL"),
        (torch.empty(0), UnsupportedAdapter, r"F32 \[0\]"),
    ],
)
def test_an_alpha_that_gives_no_scaling_is_named(
    alpha: torch.Tensor, error: type[AdapterRefused], message: str, tmp_path: Path
) -> None:
    write_kohya(tmp_path / "a.safetensors", alpha=None, more={f"{TO_Q}.alpha": alpha})
    record = read(tmp_path / "a.safetensors")
    with pytest.raises(error, match=message) as caught:
        matrices(tmp_path / "a.safetensors", record)
    assert TO_Q in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("dora_scale", "DoRA"),
        ("oft_blocks", "OFT"),
        ("oft_diag", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("w_norm", "a norm"),
        ("set_weight", "replaces a weight"),
        ("diff", "whole weight"),
    ],
)
def test_other_methods_are_refused_by_name(key: str, why: str, tmp_path: Path) -> None:
    more = {f"{TO_Q}.{key}": torch.ones(4, 4)}
    for name, sites in (("alone", []), ("beside", [UNET])):
        file = tmp_path / f"{name}.safetensors"
        write_kohya(file, sites=sites, more=more)
        with pytest.raises(UnsupportedAdapter, match=why) as caught:
            read(file)
        assert caught.value.where == str(file)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({f"{TO_Q}.lora_up.weight": None}, MalformedAdapter, "no pair"),
        ({f"{TO_Q}.lora_up.weight": torch.ones(8, 3)}, RankMismatch, "rank 4 in A"),
        ({f"{TO_Q}.lora_up.weight": torch.ones(8, 4, 1, 1)}, MalformedAdapter, "A of shape"),
        ({f"{CONV}.lora_up.weight": torch.ones(8, 4, 3, 3)}, UnsupportedAdapter, "1x1 kernel"),
        ({f"{TO_Q}.lora_up.weight": torch.ones(8, 4).int()}, UnsupportedAdapter, "is I32"),
        ({"lora_unet_gone.alpha": torch.ones(())}, MalformedAdapter, "of no site"),
        ({"emb_params": torch.ones(2, 8)}, UnsupportedAdapter, "not part of a LoRA: emb_params"),
        (
            {f"lora_unet_input_blocks_1.lora_{h}.weight": torch.ones(4, 4) for h in ("up", "down")},
            MalformedAdapter,
            "in two ways",
        ),
    ],
)
def test_files_that_contradict_themselves_are_named(
    change: dict[str, torch.Tensor | None],
    error: type[AdapterRefused],
    message: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.safetensors"
    write_kohya(file)
    tensors: dict[str, Any] = {**load_file(file), **change}
    save_file({name: t for name, t in tensors.items() if t is not None}, file)
    with pytest.raises(error, match=message) as caught:
        read(file)
    assert caught.value.where == str(file)


@pytest.mark.parametrize(
    ("metadata", "card", "wanted"),
    [
        ({"ss_base_model_version": "sd_v1", "ss_sd_model_name": "x.ckpt"}, "org/m", "sd_v1"),
        ({"ss_base_model_version": "None", "ss_sd_model_name": "x.ckpt"}, "", "x.ckpt"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "", "stable-diffusion-v1"),
        ({}, "org/m", "org/m"),
        ({}, "", ""),
    ],
)
def test_the_base_model_is_the_headers_or_else_the_cards(
    metadata: dict[str, str], card: str, wanted: str, tmp_path: Path
) -> None:
    write_kohya(tmp_path / "a.safetensors", metadata=metadata)
    assert read(tmp_path / "a.safetensors", base_model=card).base_model == wanted


def merged(rank: int, dtype: torch.dtype = torch.float32) -> list[MergedSite]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return [
        MergedSite(TO_Q, "linear", draw(rank, 8), draw(8, rank)),
        MergedSite(CONV, "conv", draw(rank - 1, 72), draw(8, rank - 1), (8, 3, 3), 4),
    ]


def written(file: Path, sites: list[MergedSite], **options: Any) -> Path:
    options = {"rank": 4, "dtype": "F32", "base_model": "sd_v1", "carried": {}, **options}
    file.write_bytes(encode(sites, **options))
    return file


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("compact", [False, True])
def test_what_is_written_is_read_back_to_the_bit(compact: bool, dtype: str, tmp_path: Path) -> None:
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    sites = merged(4, kind)
    file = written(tmp_path / "a.safetensors", sites, dtype=dtype, compact=compact)
    record = read(file)
    assert (record.dtype, record.base_model) == (dtype, "sd_v1")
    assert record.ranks == ((4, 3) if compact else (4, 4))
    found = matrices(file, record)
    for site in sites:
        a, b, scaling = found[site.site]
        k = len(site.a)
        assert scaling == 1
        assert torch.equal(a[:k].to(kind), site.a)
        assert torch.equal(b[:, :k].to(kind), site.b)
        assert not a[k:].any()
        assert not b[:, k:].any()
    stored = load_file(file)
    assert {float(t) for name, t in stored.items() if name.endswith(".alpha")} == (
        set() if compact else {4}
    )
    assert stored[f"{CONV}.lora_down.weight"].shape[1:] == (8, 3, 3)
    assert stored[f"{CONV}.lora_up.weight"].shape[2:] == (1, 1)
    tails = {"conv": (8, 3, 3), "linear": ()}
    again = [
        MergedSite(s.site, s.kind, *found[s.site][:2], tails[s.kind], len(s.b.shape))
        for s in record.sites
    ]
    copy = written(tmp_path / "b.safetensors", again, dtype=dtype, compact=compact)
    assert copy.read_bytes() == file.read_bytes()


def test_a_rank_that_bfloat16_cannot_hold_is_alpha_all_the_same(tmp_path: Path) -> None:
    site = MergedSite(TO_Q, "linear", torch.ones(257, 8), torch.ones(8, 257))
    file = written(tmp_path / "a.safetensors", [site], rank=257, dtype="BF16")
    assert matrices(file, read(file))[TO_Q][2] == 1


def test_the_same_sites_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    carried = {"ss_v2": "False", "modelspec.implementation": "x", "ss_base_model_version": "sd_v1"}
    files = [
        written(tmp_path / f"{i}.safetensors", sites, carried=carried).read_bytes()
        for i, sites in enumerate((merged(4), merged(4)[::-1]))
    ]
    assert files[0] == files[1]
    metadata = header(tmp_path / "0.safetensors")
    assert list(metadata) == sorted(metadata)


def header(file: Path) -> dict[str, str]:
    import json

    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    assert end % 8 == 0
    return dict(json.loads(data[8:end])["__metadata__"])


def test_the_header_has_what_kohyas_tools_look_for(tmp_path: Path) -> None:
    carried = {"ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_output_name": "mine"}
    file = written(tmp_path / "a.safetensors", merged(4), carried=carried)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {
            "format": "pt",
            "ss_base_model_version": "sd_v1",
            "ss_network_alpha": "4",
            "ss_network_dim": "4",
            "ss_network_module": "networks.lora",
            "ss_v2": "False",
        }
    renamed = written(tmp_path / "b.safetensors", merged(4), carried=carried, base_model="other")
    assert header(renamed)["ss_base_model_version"] == "other"
    several = written(tmp_path / "c.safetensors", merged(4), compact=True)
    assert header(several)["ss_network_dim"] == "Dynamic"


def test_sites_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatch, match="no site"):
        written(tmp_path / "a", [])
    with pytest.raises(ShapeMismatch, match="given twice"):
        written(tmp_path / "a", [*merged(4), *merged(4)])
