"""The benchmark of updates measures what it says it does."""

from __future__ import annotations

from pathlib import Path

from jobs.benchmarks.update import compare


def test_it_adds_one_adapter_to_a_merge_and_counts_what_both_read(tmp_path: Path) -> None:
    result = compare(tmp_path, 3, 2, layers=1, rank=2, hidden=16)
    assert result["adapters"] == 3
    assert len(result["updates"]) == 2
    tensors = (tmp_path / "more" / "adapter-0000" / "adapter_model.safetensors").stat().st_size
    assert result["update"]["bytes_read"] > result["state_bytes"] + tensors / 2
    ratio = result["update"]["bytes_read"] / result["full"]["bytes_read"]
    assert result["bytes_ratio"] == ratio
    assert result["update"]["seconds"] == max(each["seconds"] for each in result["updates"])
    assert (tmp_path / "version-1" / "adapter_config.json").exists()
