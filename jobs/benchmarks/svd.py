"""`svd` against PEFT's own merge of the same adapters, one site at a time, in one run.

`python -m jobs.benchmarks.svd` gives a model of one linear layer some LoRA adapters, merges them by
PEFT's `add_weighted_adapter(combination_type="svd")` and from the same factors by the `svd` method,
in turn, and prints the least wall time of each, the ratio of walls and of processor times (which
other work on the machine disturbs less), and how far the two merged updates are apart. PEFT sums
dense updates and decomposes the sum; `--thin` spares it the full set of singular vectors, which it
asks for by default and throws away.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lego_ray.methods.svd import Svd
from lego_ray.numerics.msu import msu_rows, split_rows
from lego_ray.numerics.pool import pool_of

# The feed-forward of a 1.1B Llama and the attention of a 7B one.
SITES = ((2048, 5632), (4096, 4096))
MERGED = "merged"

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One site merged by both, PEFT's figure first.

    Attributes:
        d_in: Width of its input.
        d_out: Width of its output.
        walls: Least wall time of each, in seconds.
        processor: Least processor time of each, in seconds of one core.
        difference: Frobenius norm of the two merged updates' difference over that of PEFT's.
        errors: Distance of each update to the sum of the sources, over that sum's norm.
    """

    d_in: int
    d_out: int
    walls: tuple[float, float]
    processor: tuple[float, float]
    difference: float
    errors: tuple[float, float]

    @property
    def ratios(self) -> tuple[float, float]:
        """How many times as fast ours is, by walls and by processor times."""
        return self.walls[0] / self.walls[1], self.processor[0] / self.processor[1]


def main() -> None:
    """Measures each site and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16, help="of the sources and the merge")
    parser.add_argument("--site", type=int, nargs=2, action="append", metavar=("D_IN", "D_OUT"))
    parser.add_argument("--runs", type=int, default=3, help="of PEFT, in turn with ours")
    parser.add_argument("--ours", type=int, default=10, help="runs of ours for one of PEFT")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--thin", action="store_true", help="PEFT with svd_full_matrices=False")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(
        f"{given.adapters} adapters of rank {given.rank}, merged at rank {given.rank}; torch on "
        f"{given.threads} threads; least of {given.runs} and {given.runs * given.ours} runs"
    )
    print(
        f"{'d_in':>6}{'d_out':>7}{'PEFT s':>9}{'ours s':>9}{'ratio':>8}{'of CPU':>8}{'apart':>10}"
        f"{'errors':>11}"
    )
    rows: list[dict[str, Any]] = []
    for d_in, d_out in given.site or SITES:
        found = compare(
            d_in,
            d_out,
            adapters=given.adapters,
            rank=given.rank,
            runs=given.runs,
            ours=given.ours,
            thin=given.thin,
        )
        print(
            f"{d_in:6}{d_out:7}{found.walls[0]:9.2f}{found.walls[1]:9.4f}{found.ratios[0]:8.0f}"
            f"{found.ratios[1]:8.0f}{found.difference:10.1e}{found.errors[0]:11.7f}"
            f"{found.errors[1]:11.7f}",
            flush=True,
        )
        rows.append({name: getattr(found, name) for name in (*Comparison.__slots__, "ratios")})
    print(json.dumps({"threads": given.threads, "thin": given.thin, "rows": rows}))


def compare(
    d_in: int, d_out: int, *, adapters: int, rank: int, runs: int, ours: int, thin: bool
) -> Comparison:
    """Merges one site by both, in turn.

    Args:
        d_in: Width of its input.
        d_out: Width of its output.
        adapters: How many there are, of Gaussian factors and scaling 2.
        rank: Of the sources and the merge.
        runs: Times PEFT merges.
        ours: Times we do for each of those.
        thin: Whether PEFT is told not to complete the singular vectors.
    """
    generator = torch.Generator().manual_seed(d_in + d_out)
    factors = [
        (
            torch.randn(rank, d_in, generator=generator) / d_in**0.5,
            torch.randn(d_out, rank, generator=generator) / d_in**0.5,
        )
        for _ in range(adapters)
    ]
    model = _peft_model(factors, d_in, d_out)
    theirs, mine = [], []
    for _ in range(runs):
        mine += [_seconds(_merge, factors, rank) for _ in range(ours)]
        theirs.append(_seconds(_peft_merge, model, adapters, rank, thin))
    least = [[min(times) for times in zip(*each, strict=True)] for each in (theirs, mine)]
    updates = (_peft_update(model), _update(*_merge(factors, rank)))
    total = torch.zeros(d_out, d_in, dtype=torch.float64)
    for a, b in factors:
        total += 2.0 * _update(a, b)
    return Comparison(
        d_in=d_in,
        d_out=d_out,
        walls=(least[0][0], least[1][0]),
        processor=(least[0][1], least[1][1]),
        difference=_gap(updates[1], updates[0]),
        errors=(_gap(updates[0], total), _gap(updates[1], total)),
    )


def _peft_model(factors: list[Factors], d_in: int, d_out: int) -> Any:
    from peft import LoraConfig, get_peft_model

    rank = len(factors[0][0])
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["site"])
    base = nn.Sequential()
    base.add_module("site", nn.Linear(d_in, d_out, bias=False))
    model: Any = get_peft_model(base, config, adapter_name="0")
    for number in range(1, len(factors)):
        model.add_adapter(str(number), config)
    site = model.base_model.model.site
    for number, (a, b) in enumerate(factors):
        site.lora_A[str(number)].weight.data.copy_(a)
        site.lora_B[str(number)].weight.data.copy_(b)
    return model


def _peft_merge(model: Any, adapters: int, rank: int, thin: bool) -> None:
    if MERGED in model.peft_config:
        model.delete_adapter(MERGED)
    with torch.no_grad():
        model.add_weighted_adapter(
            [str(number) for number in range(adapters)],
            [1.0] * adapters,
            MERGED,
            combination_type="svd",
            svd_rank=rank,
            svd_full_matrices=not thin,
        )


def _peft_update(model: Any) -> Tensor:
    site = model.base_model.model.site
    a, b = site.lora_A[MERGED].weight.detach(), site.lora_B[MERGED].weight.detach()
    return _update(a, site.scaling[MERGED] * b)


def _merge(factors: list[Factors], rank: int) -> Factors:
    """From factors to factors, as a merge does between reading and writing."""
    rows = ((number, msu_rows(a, b, 2.0)) for number, (a, b) in enumerate(factors))
    pool = pool_of(rows, factors[0][0].shape[1])
    return split_rows(Svd().solve(pool, rank, torch.Generator().manual_seed(0)).rows, pool.d_in)


def _update(a: Tensor, b: Tensor) -> Tensor:
    return b.double() @ a.double()


def _gap(update: Tensor, wanted: Tensor) -> float:
    norm = torch.linalg.matrix_norm
    return float(norm(update - wanted) / norm(wanted))


def _seconds(call: Any, *arguments: Any) -> tuple[float, float]:
    """Wall and processor time of a call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wall, processor = time.perf_counter(), time.process_time()
        call(*arguments)
        return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
