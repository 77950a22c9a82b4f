"""LoHa, LoKr and CP-decomposed LoCon merge as the plain LoRA that is the same update."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lego_ray
from lego_ray.errors import InvalidOption, NoAdaptersFound
from lego_ray.formats.expansion import expand
from lego_ray.formats.kinds import expanded_site
from lego_ray.formats.site_factors import Form, TensorSpan
from tests.kinds_zoo import KINDS, SHAPES, kind_file
from tests.lone_zoo import load, tensors_of, total, updates_of, write
from tests.zoo import relative_error

# float32 products of a few factors, and one more rounding when they are stored.
F32_ROUNDING = 1e-6
RANK = 64


def merge(zoo: Path, output: Path, **options: Any) -> lego_ray.MergeRecord:
    settings: dict[str, Any] = {"method": "concat", "rank": RANK, "runner": "inline"}
    return lego_ray.merge(
        zoo, **{**settings, "dtype": "F32", "base_model": "org/base", **options}, output=output
    )


@pytest.mark.parametrize("method", ["concat", "svd"])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_kind_is_its_own_update_and_adds_up_with_a_plain_lora(
    kind: str, method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    alphas = (None, torch.tensor(3.0), torch.tensor([1.5], dtype=torch.bfloat16))
    wanted = []
    for at, alpha in enumerate(alphas):
        tensors, updates = kind_file(kind, seed=at, dtype=dtype, alpha=alpha)
        write(tmp_path / f"zoo/{at}.safetensors", tensors)
        wanted.append(updates)
    write(tmp_path / "zoo/plain.safetensors", kind_file("plain", seed=9)[0])
    wanted.append(kind_file("plain", seed=9)[1])
    rank = RANK if method == "concat" else 12
    merge(tmp_path / "zoo", tmp_path / "m", method=method, rank=rank)
    merged = load(tmp_path / "m")
    assert relative_error(updates_of(merged), total(*wanted)) < F32_ROUNDING
    for module, shape in SHAPES.values():
        if f"{module}.lora_down.weight" in merged:
            assert merged[f"{module}.lora_down.weight"].shape[1:] == shape[1:]
    assert lego_ray.verify(tmp_path / "m", sources=tmp_path / "zoo")["ok"]


def test_ray_writes_the_bytes_of_the_inline_runner(tmp_path: Path, local_ray: None) -> None:
    for at, kind in enumerate(sorted(KINDS)):
        write(tmp_path / f"zoo/{at}.safetensors", kind_file(kind, seed=at)[0])
    for runner in ("inline", "ray"):
        merge(tmp_path / "zoo", tmp_path / runner, method="lego", rank=4, n_init=1, runner=runner)
    files = [next((tmp_path / runner).glob("*.safetensors")) for runner in ("inline", "ray")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_adapter_alone_is_its_own_update_and_a_plan_says_the_rank(tmp_path: Path) -> None:
    tensors, updates = kind_file("loha beyond full rank", alpha=torch.tensor(2.0))
    write(tmp_path / "zoo/a.safetensors", tensors)
    plan = lego_ray.plan(tmp_path / "zoo", rank=12, method="concat", base_model="b")
    assert plan.adapters[0].ranks == (8, 12, 8)
    (note,) = plan.adapters[0].notes
    assert note == (
        "3 modules are LoHa: merged as the plain LoRA of rank 8 to 12 that is the same update"
    )
    merge(tmp_path / "zoo", tmp_path / "m", rank=12)
    assert relative_error(updates_of(load(tmp_path / "m")), updates) < F32_ROUNDING
    (found,) = lego_ray.inspect(tmp_path / "zoo").found
    assert found.notes == (note,)
    assert found.forms == {"loha": 3}
    assert [each["scale"] for each in found.scales] == [0.5]


def test_rows_of_the_catalog_follow_the_rank_of_the_plain_lora(tmp_path: Path) -> None:
    write(tmp_path / "zoo/a.safetensors", kind_file("loha", ("linear",))[0])
    write(tmp_path / "zoo/b.safetensors", kind_file("plain", ("linear",), seed=1)[0])
    catalog = tmp_path / "catalog"
    options: dict[str, Any] = {"method": "lego", "n_init": 1, "catalog": catalog}
    merge(tmp_path / "zoo", tmp_path / "m", rank=3, name="m", **options)
    traced = lego_ray.catalog.lineage(catalog, "m").to_pylist()
    assert {Path(row["uri"]).stem: row["msus"] for row in traced} == {"a": 4, "b": 2}


def test_a_scalar_is_multiplied_in_and_said(tmp_path: Path) -> None:
    tensors, updates = kind_file("lokr", ("linear",), alpha=torch.tensor(4.0))
    module = SHAPES["linear"][0]
    write(tmp_path / "zoo/a.safetensors", {**tensors, f"{module}.scalar": torch.tensor(0.25)})
    record = merge(tmp_path / "zoo", tmp_path / "m")
    wanted = {name: 0.25 * update for name, update in updates.items()}
    assert relative_error(updates_of(load(tmp_path / "m")), wanted) < F32_ROUNDING
    assert any(".scalar are multiplied in" in each["note"] for each in record["notes"])
    write(tmp_path / "zoo/a.safetensors", {**tensors, f"{module}.scalar": torch.tensor(0.0)})
    with pytest.raises(NoAdaptersFound, match=r"scalar is 0, so the update"):
        merge(tmp_path / "zoo", tmp_path / "n")


def test_values_that_are_not_finite_are_named_by_their_tensor(tmp_path: Path) -> None:
    tensors, _ = kind_file("lokr", ("linear",))
    module = SHAPES["linear"][0]
    tensors[f"{module}.lokr_w1"][0, 0] = float("nan")
    write(tmp_path / "zoo/a.safetensors", tensors)
    with pytest.raises(NoAdaptersFound, match=r"to_q\.lokr_w1 holds 1 values"):
        merge(tmp_path / "zoo", tmp_path / "m")


def test_a_flat_convolution_gets_the_shape_that_others_have(tmp_path: Path) -> None:
    """No table says what the kernel of this module is, so another adapter does."""
    names = dict.fromkeys([SHAPES["conv 3x3"][0]], "lora_unet_some_conv1")
    parts = []
    for at, kind in enumerate(("loha", "lokr", "plain", "cp")):
        tensors, updates = kind_file(kind, ("conv 3x3",), seed=at)
        for old, new in names.items():
            tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
            parts.append({new: updates[old]})
        write(tmp_path / f"zoo/{at}.safetensors", tensors)
    merge(tmp_path / "zoo", tmp_path / "m")
    merged = load(tmp_path / "m")
    assert merged["lora_unet_some_conv1.lora_down.weight"].shape == (RANK, 8, 3, 3)
    assert relative_error(updates_of(merged), total(*parts)) < F32_ROUNDING


def test_a_fused_lokr_is_cut_into_the_parts_that_others_have(tmp_path: Path) -> None:
    fused = "lora_unet_double_blocks_0_img_attn_qkv"
    torch.manual_seed(3)
    lokr = {f"{fused}.lokr_w1": torch.randn(4, 4), f"{fused}.lokr_w2": torch.randn(6, 2)}
    write(tmp_path / "zoo/a.safetensors", lokr)
    split = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    plain = tensors_of(split, seed=1)
    write(tmp_path / "zoo/b.safetensors", plain)
    merge(tmp_path / "zoo", tmp_path / "m")
    whole = torch.kron(*(tensor.double() for tensor in lokr.values())).numpy()
    parts = {name: whole[8 * at : 8 * at + 8] for at, name in enumerate(split)}
    got = updates_of(load(tmp_path / "m"))
    assert relative_error(got, total(parts, updates_of(plain))) < F32_ROUNDING


def test_dotted_names_and_bare_ones_are_read_alike(tmp_path: Path) -> None:
    tensors, updates = kind_file("lokr", ("linear",))
    wanted = next(iter(updates.values()))
    for prefix in ("diffusion_model.", "transformer.", "", "lycoris_"):
        path = "transformer_blocks.0.attn.to_q"
        name = f"{prefix}{path.replace('.', '_') if prefix.endswith('_') else path}"
        renamed = {f"{name}.{key.rpartition('.')[2]}": t for key, t in tensors.items()}
        write(tmp_path / f"zoo{prefix}/a.safetensors", renamed)
        merge(tmp_path / f"zoo{prefix}", tmp_path / f"m{prefix}")
        (got,) = updates_of(load(tmp_path / f"m{prefix}")).items()
        assert got[0] == name
        assert relative_error(dict([got]), {name: wanted}) < F32_ROUNDING


BAD: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "missing": ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 4)}, "LoHa and lacks its w2_a"),
    "two kinds": ({"lokr_w1": (2, 2), "lokr_w2": (2, 2), "hada_w1_a": (4, 2)}, "of two kinds"),
    "and a pair": (
        {"lokr_w1": (2, 2), "lora_down.weight": (2, 4), "lora_up.weight": (4, 2)},
        "of two kinds",
    ),
    "twice": (
        {"lokr_w1": (2, 2), "lokr_w1_a": (2, 1), "lokr_w2": (2, 2)},
        "LoKr .* whole and in factors",
    ),
    "ranks": (
        {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (3, 4)},
        "a LoKr that has rank 2 in .* and 3 in",
    ),
    "shapes": (
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (5, 2), "hada_w2_b": (2, 4)},
        "a LoHa whose .* do not fit together",
    ),
    "mid": (
        {
            **{"lora_down.weight": (2, 4, 1, 1), "lora_up.weight": (4, 2, 1, 1)},
            "lora_mid.weight": (3, 2, 3, 3),
        },
        "a CP-decomposed LoCon that has rank 2 in",
    ),
    "mid alone": ({"lora_mid.weight": (3, 2, 3, 3)}, "lacks its up"),
    "rank": (
        {"lokr_w1": (128, 128), "lokr_w2": (128, 128)},
        "LoKr whose exact rank is 16384, more",
    ),
    "side": ({"lokr_w1": (4096, 1), "lokr_w2": (4096, 1)}, "16777216 wide, more than"),
    "empty": ({"lokr_w1": (0, 2), "lokr_w2": (2, 2)}, "LoKr .* expected two sizes above zero"),
    "scalar alone": (
        {"lora_down.weight": (2, 4), "lora_up.weight": (4, 2), "gone.scalar": ()},
        "is of no site",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_does_not_fit_is_refused_with_its_tensors(case: str, tmp_path: Path) -> None:
    shapes, message = BAD[case]
    tensors = {f"lora_unet_x.{key}": torch.ones(shape) for key, shape in shapes.items()}
    write(tmp_path / "a.safetensors", tensors)
    (refused,) = lego_ray.scan(tmp_path)["refused"]
    assert re.search(message, refused["reason"]), refused["reason"]


def test_the_estimate_of_memory_has_what_expanding_takes() -> None:
    """Of the arrays that are made, by shapes alone: no less than they take, and of their order."""
    for kind, (make, fitting) in KINDS.items():
        if kind in ("plain", "cp"):
            continue
        for name in fitting:
            parts, _ = make((96, 64, *SHAPES[name][1][2:]), torch.ones)
            spans = {
                key.partition("_")[2]: TensorSpan(key, "F32", tuple(t.shape), 0, 4 * t.numel())
                for key, t in parts.items()
            }
            form: Form = "loha" if kind.startswith("loha") else "lokr"
            site = expanded_site("x", form, spans, "w")
            given = {key.partition("_")[2]: tensor for key, tensor in parts.items()}
            a, b = expand(form, given)
            assert (site.rank, site.d_in, site.d_out) == (*a.shape, b.shape[0])
            with _Allocations() as made:
                expand(form, given)
            assert made.bytes <= site.widened_bytes <= 8 * made.bytes, (kind, name)


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all new tensors that torch's operations make, which are not all there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._seen: list[UntypedStorage] = []  # kept, so that no address comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {each.data_ptr() for each in self._seen}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                known.add(tensor.untyped_storage().data_ptr())
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self._seen.append(tensor.untyped_storage())
                self.bytes += tensor.untyped_storage().nbytes()
        return out


@pytest.mark.parametrize("method", ["concat", "ties"])
@pytest.mark.parametrize(("kind", "name"), [("lokr", "LoKr"), ("loha", "LoHa")])
def test_a_rank_that_is_too_small_for_a_kind_names_the_kind(
    kind: str, name: str, method: str, tmp_path: Path
) -> None:
    """Its rank as a plain LoRA is not one that its owner has ever seen."""
    write(tmp_path / "zoo/a.safetensors", kind_file(kind, seed=1)[0])
    plain = tmp_path / "zoo/b.safetensors"
    write(plain, kind_file("plain", seed=2)[0])
    ranks = lego_ray.plan(tmp_path / "zoo", rank=64, method="concat", base_model="b").adapters
    low, high = min(ranks[0].ranks), max(ranks[0].ranks)
    said = f"rank {low}" if low == high else f"ranks {low} to {high}"
    wanted = f"; 1 adapter is a {name}, which counts with {said} as a plain LoRA"
    for options in ({"rank": 1}, {"rank": "auto"}):
        with pytest.raises(InvalidOption, match=wanted) as caught:
            lego_ray.plan(tmp_path / "zoo", method=method, base_model="b", **options)
        assert "--rank" in caught.value.hint
    (tmp_path / "zoo/a.safetensors").unlink()
    write(tmp_path / "zoo/c.safetensors", kind_file("plain", seed=3)[0])
    with pytest.raises(InvalidOption) as caught:
        lego_ray.plan(tmp_path / "zoo", rank=1, method=method, base_model="b")
    assert "plain LoRA" not in str(caught.value)
