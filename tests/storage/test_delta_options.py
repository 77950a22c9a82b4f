from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from lego_ray.errors import AccessDenied
from lego_ray.storage import delta_storage_options
from lego_ray.storage.uri import parse_uri
from tests.ceph_gateway import S3Server

# What is switched off whatever the environment says, for boto3 takes no notice of those variables.
OFF = {
    "aws_skip_signature": "false",
    "aws_unsigned_payload": "false",
    "aws_request_payer": "false",
    "aws_virtual_hosted_style_request": "false",
}


@pytest.mark.parametrize("uri", ["/a/b", "file:///a", "hf://org/zoo"])
def test_other_places_need_none(uri: str) -> None:
    assert delta_storage_options(parse_uri(uri)) == {}


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shared config file that boto3 reads and deltalake does not."""
    for name, value in S3Server("", "", "").environ().items():
        monkeypatch.setenv(name, value)
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    return path


def test_a_profile_of_the_shared_config_is_resolved(profile: Path) -> None:
    profile.write_text(
        "[profile lab]\naws_access_key_id = K\naws_secret_access_key = S\naws_session_token = T\n"
        "region = eu-west-1\nendpoint_url = https://s3.lab.example\n"
    )
    assert delta_storage_options(parse_uri("s3://b/t")) == OFF | {
        "AWS_ACCESS_KEY_ID": "K",
        "AWS_SECRET_ACCESS_KEY": "S",
        "AWS_SESSION_TOKEN": "T",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "https://s3.lab.example",
        "aws_conditional_put": "etag",
    }


def test_aws_itself_needs_no_endpoint(profile: Path) -> None:
    profile.write_text("[profile lab]\naws_access_key_id = K\naws_secret_access_key = S\n")
    assert delta_storage_options(parse_uri("s3://b/t")) == OFF | {
        "AWS_ACCESS_KEY_ID": "K",
        "AWS_SECRET_ACCESS_KEY": "S",
        "AWS_REGION": "us-east-1",
        "aws_conditional_put": "etag",
        "aws_virtual_hosted_style_request": "true",
    }


def test_no_credentials_are_said(profile: Path) -> None:
    profile.write_text("[profile lab]\nregion = eu-west-1\n")
    with pytest.raises(AccessDenied, match="finds no credentials"):
        delta_storage_options(parse_uri("s3://b/t"))


@pytest.mark.s3
def test_deltalake_takes_them_and_loses_no_commit(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltalake = pytest.importorskip("deltalake")
    uri = f"s3://{s3_bucket}/table"
    options = delta_storage_options(parse_uri(uri))
    # Nothing may come from the environment: a profile or a role leaves it empty.
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")

    def append(i: int) -> None:
        deltalake.write_deltalake(uri, pa.table({"i": [i]}), mode="append", storage_options=options)

    append(0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(1, 12)))
    table = deltalake.DeltaTable(uri, storage_options=options)
    assert table.version() == 11
    assert sorted(table.to_pyarrow_table()["i"].to_pylist()) == list(range(12))


@pytest.mark.s3
@pytest.mark.parametrize(
    "name", ["aws_conditional_put", "AWS_ALLOW_HTTP", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"]
)
def test_deltalake_reads_each_option_by_this_name(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    deltalake = pytest.importorskip("deltalake")
    uri = f"s3://{s3_bucket}/table"
    options = delta_storage_options(parse_uri(uri))
    for each in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{each}")
    options[name] = "http://127.0.0.1:1" if name == "AWS_ENDPOINT_URL" else "nonsense"
    options["max_retries"] = "0"
    with pytest.raises(Exception):  # noqa: B017, PT011 - any refusal shows that it was read
        deltalake.write_deltalake(uri, pa.table({"i": [0]}), storage_options=options)
