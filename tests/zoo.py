"""Tiny PEFT adapter directories, written directly, and their updates in plain float64 arithmetic.

The sites are those of `tests.formats.tiny_peft.TinyModel`, so PEFT can load whatever is merged from
them. Nothing here uses lego_ray: what it computes is what lego_ray is held against.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BASE = "tiny/base"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# The fixtures trained on real tasks, with what each directory is named after.
REAL_ZOO = Path(__file__).parent / "fixtures" / "zoo"


@dataclass(frozen=True)
class Site:
    """A target module: `tail` is one row of A as stored, `kind` is linear, embedding or conv."""

    name: str
    tail: tuple[int, ...]
    d_out: int
    kind: str = "linear"

    def keys(self) -> tuple[str, str]:
        prefix = f"base_model.model.{self.name}"
        if self.kind == "embedding":
            return f"{prefix}.lora_embedding_A", f"{prefix}.lora_embedding_B"
        return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"


LINEAR = tuple(
    Site(f"layers.{layer}.{name}", (12,), d_out)
    for layer in (0, 1)
    for name, d_out in (("q_proj", 10), ("v_proj", 7))
)
EMBEDDING = Site("emb", (20,), 6, "embedding")
CONV = Site("conv", (3, 3, 2), 5, "conv")


def wide_site(width: int) -> tuple[Site, ...]:
    """One site whose tensors outgrow what a scan samples."""
    return (Site("layers.0.q_proj", (width,), width),)


def write_adapter(
    path: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8,
    rslora: bool = False,
    dtype: str = "F32",
    base_model: str | None = BASE,
    sites: Sequence[Site] = LINEAR,
    missing: Sequence[str] = (),
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    permute: int | None = None,
    zero_b: bool = False,
    full_weights: Mapping[str, Tensor] | None = None,
    **config: object,
) -> Path:
    """Writes one adapter.

    Args:
        path: Its directory; made.
        seed: Of its factors, each site's drawn apart, so that a missing site changes no other.
        rank: r.
        alpha: lora_alpha.
        rslora: Whether scaling is alpha / sqrt(r).
        dtype: Element type of the tensors.
        base_model: base_model_name_or_path.
        sites: Target modules.
        missing: Names of sites to leave out.
        rank_pattern: Ranks of sites by full name.
        alpha_pattern: Alphas of sites by full name.
        permute: Seed of a permutation of the ranks at every site; None for none.
        zero_b: B = 0, an adapter never trained.
        full_weights: Tensors by their key, beside the factors.
        config: Fields of adapter_config.json to add or replace.
    """
    tensors = dict(full_weights or {})
    present = [site for site in sites if site.name not in missing]
    for number, site in enumerate(sites):
        if site not in present:
            continue
        r = (rank_pattern or {}).get(site.name, rank)
        generator = torch.Generator().manual_seed(1000 * seed + number)
        a = 0.4 * torch.randn(r, *site.tail, generator=generator)
        b = 0.3 * torch.randn(site.d_out, r, generator=generator)
        if zero_b:
            b.zero_()
        if permute is not None:
            order = torch.randperm(r, generator=torch.Generator().manual_seed(permute + number))
            a, b = a[order], b[:, order]
        if site.kind == "conv":
            b = b.reshape(site.d_out, r, *(1,) * (len(site.tail) - 1))
        for key, tensor in zip(site.keys(), (a, b), strict=True):
            tensors[key] = tensor.to(DTYPES[dtype]).contiguous()
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": dict(rank_pattern or {}),
        "alpha_pattern": dict(alpha_pattern or {}),
        "target_modules": [site.name for site in present],
        "task_type": None,
        "bias": "none",
        **config,
    }
    path.mkdir(parents=True)
    (path / CONFIG).write_text(json.dumps(fields))
    save_file(tensors, path / WEIGHTS, {"format": "pt"})
    return path


def write_zoo(root: Path, count: int = 5, **options: object) -> Path:
    """Adapters a0, a1, ... with seeds from 1, all with these options."""
    for number in range(count):
        write_adapter(root / f"a{number}", **{"seed": number + 1, **options})  # type: ignore[arg-type]
    return root


def mixed_zoo(root: Path) -> Path:
    """Five adapters that differ in everything that may differ within one merge."""
    write_adapter(root / "plain", seed=1)
    write_adapter(root / "higher", seed=2, rank=6, alpha=6)
    write_adapter(root / "rslora", seed=3, rslora=True)
    write_adapter(root / "partial", seed=4, missing=["layers.0.v_proj"])
    write_adapter(
        root / "patterned",
        seed=5,
        rank_pattern={"layers.1.q_proj": 2},
        alpha_pattern={"layers.0.q_proj": 3},
    )
    return root


def permuted_ranks(zoo: Path, to: Path) -> Path:
    """The same adapters, each with its ranks in another order at every site."""
    shutil.copytree(zoo, to)
    for number, file in enumerate(sorted(to.rglob(WEIGHTS))):
        tensors = load_file(file)
        for site in sorted({key.partition(".lora_")[0] for key in tensors}):
            key_a, key_b = (
                next(k for k in tensors if k.startswith(f"{site}.lora_{h}")) for h in "AB"
            )
            generator = torch.Generator().manual_seed(number)
            order = torch.randperm(len(tensors[key_a]), generator=generator)
            tensors[key_a] = tensors[key_a][order].contiguous()
            tensors[key_b] = tensors[key_b][:, order].contiguous()
        save_file(tensors, file, {"format": "pt"})
    return to


def shuffled_names(zoo: Path, to: Path) -> Path:
    """The same adapters under names that sort the other way round."""
    folders = sorted(path.parent for path in zoo.rglob(CONFIG))
    for number, folder in enumerate(reversed(folders)):
        shutil.copytree(folder, to / f"z{number}")
    return to


def real_adapters() -> list[Path]:
    """The directories of the trained fixtures."""
    return sorted(path.parent for path in REAL_ZOO.glob(f"*/{CONFIG}"))


def update_of(path: Path) -> dict[str, np.ndarray]:
    """Each site's update s B A of an adapter on disk, (d_out, d_in) with a convolution flattened.

    Patterns are looked up by full name or as suffixes, as PEFT does for plain names.
    """
    config = json.loads((path / CONFIG).read_text())
    tensors = load_file(path / WEIGHTS)
    out = {}
    for key, a in tensors.items():
        for half_a, half_b in (
            (".lora_A.", ".lora_B."),
            (".lora_embedding_A", ".lora_embedding_B"),
        ):
            if half_a not in key:
                continue
            site = key.removeprefix("base_model.model.").partition(half_a)[0]
            b = tensors[key.replace(half_a, half_b)]
            r = _patterned(config.get("rank_pattern") or {}, site, config["r"])
            alpha = _patterned(config.get("alpha_pattern") or {}, site, config["lora_alpha"])
            assert a.shape[0] == r, f"{site}: rank {a.shape[0]} stored, {r} configured"
            scaling = alpha / (r**0.5 if config.get("use_rslora") else r)
            product = b.double().flatten(1) @ a.double().flatten(1)
            out[site] = scaling * product.numpy()
    return out


def _patterned(pattern: Mapping[str, float], site: str, default: float) -> float:
    for key, value in pattern.items():
        if site == key or site.endswith(f".{key}"):
            return value
    return default


def sum_of(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """The sum of several adapters' updates, site by site."""
    out: dict[str, np.ndarray] = {}
    for path in paths:
        for site, update in update_of(path).items():
            out[site] = out.get(site, 0) + update
    return out


def relative_error(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Largest relative Frobenius error over sites, which must be the same ones."""
    assert got.keys() == wanted.keys()
    return max(
        float(np.linalg.norm(got[site] - wanted[site]) / np.linalg.norm(wanted[site]))
        for site in wanted
    )


def files_of(root: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of every file below a directory; empty if it is not there."""
    return {
        str(file.relative_to(root)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def weights_of(merged: Path | str) -> bytes:
    """The merged adapter's weights file."""
    return (Path(merged) / WEIGHTS).read_bytes()
