"""Real, tiny PEFT adapters: saved by PEFT itself, read back through lego_ray.formats."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lego_ray.formats.decode import site_matrices
from lego_ray.formats.identity import adapter_id, sample_windows
from lego_ray.formats.peft import read_adapter
from lego_ray.formats.record import AdapterHeaders, AdapterRecord
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import SiteFactors, TensorSpan
from lego_ray.formats.torch_bin import read_spans

ALL_KINDS = ["q_proj", "v_proj", "emb", "conv", "point", "conv1", "conv3"]

# Two float32 matrix products of the same numbers, summed in other orders.
FLOAT32: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(12, 10)
        self.v_proj = nn.Linear(12, 7, bias=False)


class TinyModel(nn.Module):
    """One of each kind of layer PEFT puts a LoRA on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.emb = nn.Embedding(20, 6)
        self.conv = nn.Conv2d(3, 5, (3, 2))
        self.point = nn.Conv2d(4, 5, 1)
        self.conv1 = nn.Conv1d(3, 4, 5)
        self.conv3 = nn.Conv3d(2, 3, (1, 2, 3))
        self.score = nn.Linear(10, 3)


def train(seed: int = 0, *, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    """A PEFT model whose factors are random, as if trained."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ALL_KINDS, **options}
    config = LoraConfig(**fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(TinyModel(), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def save(model: PeftModel, path: Path, *, safe: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(path), safe_serialization=safe)
    return path


def edit_config(path: Path, **fields: object) -> Path:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return path


def spans_of(file: Path) -> tuple[TensorSpan, ...]:
    if file.suffix == ".bin":
        with file.open("rb") as opened:
            return read_spans(opened, str(file))
    data = file.read_bytes()
    length = header_length(data[:LENGTH_BYTES], len(data), str(file))
    header = data[LENGTH_BYTES : LENGTH_BYTES + length]
    return parse_header(header, len(data), str(file))[0]


def weights_file(path: Path) -> Path:
    return next(file for file in path.iterdir() if file.name.startswith("adapter_model."))


def read(path: Path, **options: Any) -> AdapterRecord:
    file = weights_file(path)
    data, config = file.read_bytes(), (path / "adapter_config.json").read_bytes()
    spans = spans_of(file)
    head, tail = (data[start:end] for start, end in sample_windows(spans))
    headers = AdapterHeaders(
        uri=str(path),
        weights_key=file.name,
        weights=str(file),
        spans=spans,
        metadata={},
        config=config,
        n_bytes=len(data),
        version="v1",
        revision="",
        adapter_id=adapter_id(config, spans, len(data), head, tail),
        **{name: options.pop(name) for name in ("license", "tags") if name in options},
    )
    return read_adapter(headers, **options)


def factors(path: Path, site: SiteFactors) -> tuple[Tensor, Tensor]:
    data = memoryview(weights_file(path).read_bytes())
    return site_matrices(site, {span.name: data[span.start : span.end] for span in site.spans()})


def our_deltas(path: Path, record: AdapterRecord) -> dict[str, Tensor]:
    """The update of each site, shape (d_out, d_in) with a convolution flattened."""
    out = {}
    for site in record.sites:
        a, b = factors(path, site)
        out[site.site] = site.scaling * (b @ a)
    return out


def peft_deltas(model: PeftModel) -> dict[str, Tensor]:
    """The same, from PEFT's own arithmetic."""
    out = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and getattr(module, "scaling", None):
            delta = module.get_delta_weight("default").detach().float()
            if isinstance(module.get_base_layer(), nn.Embedding) or getattr(
                module, "fan_in_fan_out", False
            ):
                delta = delta.T
            out[name.removeprefix("base_model.model.")] = delta.flatten(1)
    return out
