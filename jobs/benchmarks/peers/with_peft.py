"""The script people write with PEFT: load the base, load every adapter, `add_weighted_adapter`, save.

`python -m jobs.benchmarks.peers.with_peft BASE OUTPUT KIND RANK ADAPTER...`
"""

from __future__ import annotations

import sys


def main(base: str, output: str, kind: str, rank: str, adapters: list[str]) -> None:
    """Merges adapters with weight 1 each; `rank` is used by kinds that end in `svd`."""
    from peft import PeftModel
    from transformers import AutoModel

    # Not bare numbers: PEFT would take layer 0 for a part of adapter 0, and save nothing.
    names = [f"adapter{number}" for number in range(len(adapters))]
    model = AutoModel.from_pretrained(base, add_pooling_layer=False)
    merged = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        merged.load_adapter(adapter, adapter_name=name)
    options: dict[str, object] = {"svd_rank": int(rank)} if kind.endswith("svd") else {}
    if "ties" in kind:
        options["density"] = 0.2
    merged.add_weighted_adapter(
        names, [1.0] * len(names), "merged", combination_type=kind, **options
    )
    merged.save_pretrained(output, selected_adapters=["merged"])


if __name__ == "__main__":
    base_folder, output_folder, kind_name, rank_text, *folders = sys.argv[1:]
    main(base_folder, output_folder, kind_name, rank_text, folders)
