"""The S3 benchmark, tiny, on the server of the other tests."""

import json

import pytest

from jobs.benchmarks import s3


@pytest.mark.s3
@pytest.mark.ray
def test_it_reads_and_merges_by_both(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--adapters 3 --layers 1 --rank 2 --hidden 128 --runs 1"
    monkeypatch.setattr("sys.argv", ["s3", *flags.split(), "--uri", f"s3://{s3_bucket}/x"])
    s3.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["requests"] == {"boto3": 3, "obstore": 3}
    assert found["surplus"] == {"boto3": 1.0, "obstore": 1.0}
    assert found["gain"] > 0
