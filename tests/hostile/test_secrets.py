"""Planted secrets are nowhere in what is printed, logged, traced, pickled or written."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lego_ray
from lego_ray.catalog.opening import open_catalog
from lego_ray.cli.main import main
from lego_ray.errors import LegoRayError, StorageError, UnsupportedUri, redacted
from tests.zoo import CONFIG, write_adapter, write_zoo

KEY, SECRET, TOKEN = "AKIAPLANTED7EXAMPLE0", "plantedSecret+Key/0123456789", "plantedSessionToken"
HUB, PASSWORD, SIGNATURE = "hf_plantedPlantedPlantedPlanted0123", "plantedPassword", "plantedSig0"
PLANTED = (KEY, SECRET, TOKEN, HUB, PASSWORD, SIGNATURE)

URIS = (
    f"https://user:{PASSWORD}@host/zoo",
    f"s3://{KEY}:{SECRET.replace('/', '_')}{PASSWORD}@bucket/zoo",
    f"s3://bucket/zoo?X-Amz-Credential={KEY}&X-Amz-Signature={SIGNATURE}",
    f"https://bucket.s3.amazonaws.com/zoo?AWSAccessKeyId={KEY}&Signature={SIGNATURE}",
    f"hf://{HUB}@owner/name",
    f"file://user:{PASSWORD}@host/x",
    f"ftp://{PASSWORD}@host",
)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_TOKEN", HUB)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    write_zoo(tmp_path / "zoo", 2)
    write_adapter(tmp_path / "zoo" / "dora", use_dora=True)
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file() and "source" not in path.parts:
            check(path.read_bytes())


def check(text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    for secret in PLANTED:
        assert secret.encode() not in data


def check_failure(call: Callable[[], object]) -> LegoRayError:
    with pytest.raises(LegoRayError) as caught:
        call()
    error = caught.value
    check(str(error) + repr(error))
    check("".join(traceback.format_exception(error)))
    check(pickle.dumps(error))
    return error


def command(*words: object) -> tuple[int, str]:
    """The command line as the shell runs it: its status, and all it says."""
    runner = CliRunner()
    status = 0
    with runner.isolation() as (out, err, _):
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = out.getvalue().decode() + err.getvalue().decode()
    return status, said


@pytest.mark.parametrize("uri", URIS)
def test_a_uri_with_a_secret_is_refused_and_not_repeated(uri: str, place: Path) -> None:
    zoo = place / "zoo"
    options: dict[str, Any] = {"rank": 2, "runner": "inline"}
    calls: list[Callable[[], object]] = [
        lambda: lego_ray.scan(uri),
        lambda: lego_ray.scan(zoo, catalog=uri),
        lambda: lego_ray.merge(zoo, output=uri, **options),
        lambda: lego_ray.merge(zoo, output=place / "m", catalog=uri, **options),
        lambda: lego_ray.verify(uri),
        lambda: lego_ray.status(uri),
        lambda: lego_ray.publish(uri, to=place / "copy"),
        lambda: lego_ray.build(uri, runner="inline"),
        lambda: lego_ray.catalog.list_merges(uri),
        lambda: lego_ray.report(uri, output=place / "page.html"),
    ]
    for call in calls:
        assert isinstance(check_failure(call), UnsupportedUri)


@pytest.mark.parametrize("debug", [False, True])
def test_commands_that_fail_say_nothing(debug: bool, place: Path) -> None:
    more = ("--debug",) if debug else ()
    for uri in URIS[:3]:
        run = ("--rank", 2, "--runner", "inline", "--log", "json", *more)
        for words in (
            ("merge", uri, "--output", place / "m", *run),
            ("merge", place / "zoo", "--output", uri, "--json", *run),
            ("merge", place / "zoo", "--output", place / "m", "--catalog", uri, *run),
            ("publish", place / "zoo", "--to", uri, *more),
            ("catalog", "list", "--catalog", uri, *more),
            ("scan", uri, "--json", *more),
        ):
            status, said = command(*words)
            assert status == 2
            check(said)


def test_a_merge_that_is_well_writes_and_logs_none(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = place / "zoo" / "a0" / CONFIG
    fields = json.loads(config.read_text())
    source = f"https://user:{PASSWORD}@huggingface.co/tiny/base"
    (place / "source").mkdir()
    for name in ("a0", "a1"):
        (place / "zoo" / name).rename(place / "source" / name)
        file = place / "source" / name / CONFIG
        file.write_text(json.dumps({**fields, "base_model_name_or_path": source}))
        card = f"---\nlicense: mit\ntags: ['from={source}']\n---\n"
        (place / "source" / name / "README.md").write_text(card)
    with caplog.at_level(logging.DEBUG):
        run = ("--rank", 2, "--runner", "inline", "--log", "json", "--debug", "--json")
        catalog = ("--catalog", place / "catalog")
        status, said = command("merge", place / "source", "--output", place / "m", *catalog, *run)
        assert status == 0, said
        check(said)
        for words in (
            ("publish", place / "m", "--to", place / "copy", "--json"),
            ("report", place / "m", "--output", place / "page.html", *catalog),
            ("catalog", "sql", "SELECT * FROM adapters, merges", *catalog, "--json"),
            ("verify", place / "m", "--sources", place / "source", "--json"),
        ):
            status, said = command(*words)
            assert status == 0, said
            check(said)
    check(caplog.text)
    manifest = json.loads((place / "m" / "lego_ray_manifest.json").read_text())
    assert manifest["base_model"] == "https://***@huggingface.co/tiny/base"
    check_failure(
        lambda: lego_ray.merge(
            place / "source", rank=2, output=place / "m2", runner="inline", base_model=source
        )
    )


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "HF_ENDPOINT"])
def test_a_server_whose_address_has_a_secret_is_not_called(
    variable: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://user:{PASSWORD}@127.0.0.1:9")
    uri = "s3://bucket/zoo" if variable.startswith("AWS") else "hf://owner/name"
    assert isinstance(check_failure(lambda: lego_ray.scan(uri)), UnsupportedUri)
    status, said = command("scan", uri, "--debug")
    assert status == 2
    check(said)


def test_a_store_that_cannot_be_reached_or_says_no_repeats_no_key(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("lego_ray.storage.s3.ATTEMPTS", 1)
    assert isinstance(check_failure(lambda: lego_ray.scan("s3://bucket/zoo")), StorageError)
    assert KEY not in repr(open_catalog("s3://bucket/catalog"))
    assert SECRET not in str(open_catalog("s3://bucket/catalog"))


def test_what_an_error_quotes_of_a_server_is_redacted() -> None:
    answer = (
        f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error> "
        f"GET https://b.s3.amazonaws.com/k?X-Amz-Credential={KEY}%2F2026&X-Amz-Signature="
        f"{SIGNATURE}&X-Amz-Security-Token={TOKEN} via http://me:{PASSWORD}@proxy:3128 with {HUB}"
    )
    error = StorageError("s3://b/k", answer)
    check(str(error) + repr(error))
    check(pickle.dumps(error))
    assert "SignatureDoesNotMatch" in str(error)
    assert redacted("hf://org/zoo@v1/a s3://b/k#d?e=f /a?b@c") == (
        "hf://org/zoo@v1/a s3://b/k#d?e=f /a?b@c"
    )
