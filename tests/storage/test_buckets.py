"""Settings of single buckets: from a file or a recipe, for all three clients and for workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import lego_ray
from lego_ray.catalog.opening import open_catalog
from lego_ray.errors import AccessDenied, InvalidOption, RecipeError
from lego_ray.storage import delta_storage_options, open_store
from lego_ray.storage.buckets import BucketSettings, bucket_settings, buckets_in_use
from lego_ray.storage.carried import NAMES, settings_here
from lego_ray.storage.uri import parse_uri
from tests.catalog.sample import merge
from tests.ceph_gateway import OtherUser, S3Server, second_user
from tests.storage.local_http import local_http
from tests.zoo import write_zoo


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are run in."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:  # other tests of this process may have set some
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def other(s3_env: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> OtherUser:
    """Another account, whose keys are in the profile `other`."""
    other = second_user(s3_env)
    (folder / "config").write_text(
        f"[profile other]\naws_access_key_id = {other.access_key}\n"
        f"aws_secret_access_key = {other.secret_key}\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    return other


def bucket_of(user: OtherUser, server: S3Server) -> tuple[S3Server, str]:
    theirs = S3Server(server.endpoint_url, user.access_key, user.secret_key)
    return theirs, theirs.bucket()


@pytest.mark.s3
def test_a_run_reads_from_one_account_and_writes_to_another(
    other: OtherUser, s3_server: S3Server, s3_bucket: str, folder: Path
) -> None:
    theirs, zoo = bucket_of(other, s3_server)
    theirs.upload(write_zoo(folder / "zoo", 2), zoo, "zoo/")
    recipe = folder / "library.yaml"
    written = (
        f"sources: ['s3://{zoo}/zoo']\ncatalog: s3://{s3_bucket}/catalog\n"
        f"output: s3://{s3_bucket}/library\ndefaults: {{rank: 2}}\nmerges: [{{name: all}}]\n"
    )
    recipe.write_text(written)
    with pytest.raises(AccessDenied):
        lego_ray.build(recipe, runner="inline")
    recipe.write_text(f"{written}buckets: {{{zoo}: {{profile: other}}}}\n")
    lego_ray.build(recipe, runner="inline")
    assert open_catalog(f"s3://{s3_bucket}/catalog").read("merges").num_rows == 1
    assert bucket_settings(zoo) == BucketSettings()  # the recipe's count for its run alone
    (folder / "lego-ray.toml").write_text(f'[buckets.{zoo}]\nprofile = "other"\n')
    lego_ray.merge(f"s3://{zoo}/zoo", rank=2, output=folder / "out", runner="inline")


@pytest.mark.s3
def test_a_catalog_of_another_account_is_written_and_read(
    other: OtherUser, s3_server: S3Server, folder: Path
) -> None:
    _, bucket = bucket_of(other, s3_server)
    (folder / "lego-ray.toml").write_text(f'[buckets.{bucket}]\nprofile = "other"\n')
    catalog = open_catalog(f"s3://{bucket}/catalog")
    catalog.append("merges", [merge()])
    assert catalog.read("merges").num_rows == 1


@pytest.mark.s3
def test_a_public_bucket_is_read_without_credentials(
    s3_env: S3Server, s3_bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    open_store(f"s3://{s3_bucket}").create("a", b"x")
    open_catalog(f"s3://{s3_bucket}/catalog").append("merges", [merge()])
    public = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{s3_bucket}", f"arn:aws:s3:::{s3_bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [public]})
    boto3.session.Session().client("s3").put_bucket_policy(Bucket=s3_bucket, Policy=policy)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDenied, match=r"anonymously.*lego-ray\.toml"):
        open_store(f"s3://{s3_bucket}").read("a")
    (folder / "lego-ray.toml").write_text(f"[buckets.{s3_bucket}]\nanonymous = true\n")
    assert open_store(f"s3://{s3_bucket}").read("a") == b"x"
    assert open_catalog(f"s3://{s3_bucket}/catalog").read("merges").num_rows == 1


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """The headers of what boto3 asks a server that takes everything."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("ETag", '"tag"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    with local_http(Handler) as url:
        for name, value in S3Server(url, "key", "secret").environ().items():
            monkeypatch.setenv(name, value)
        yield seen


def test_what_a_bucket_asks_for_goes_with_each_request(
    headers: list[dict[str, str]], folder: Path
) -> None:
    (folder / "lego-ray.toml").write_text(
        '[buckets.zoo]\nrequester_pays = true\nsse = "aws:kms"\nsse_kms_key_id = "k"\n'
    )
    open_store("s3://zoo").create("a", b"x")
    open_store("s3://zoo").read("a")
    open_store("s3://plain").create("a", b"x")
    written, read, plain = headers
    assert written["x-amz-server-side-encryption"] == "aws:kms"
    assert written["x-amz-server-side-encryption-aws-kms-key-id"] == "k"
    assert written["x-amz-request-payer"] == read["x-amz-request-payer"] == "requester"
    assert "x-amz-server-side-encryption" not in read
    assert not {"x-amz-request-payer", "x-amz-server-side-encryption"} & set(plain)
    options = delta_storage_options(parse_uri("s3://zoo/c"))
    assert options["aws_request_payer"] == "true"
    assert options["aws_server_side_encryption"] == "aws:kms"
    assert options["aws_sse_kms_key_id"] == "k"
    assert open_catalog("s3://zoo/c").filesystem("merges") is None  # Arrow cannot agree to pay


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[buckets.b]\nprofil = 'x'", r"buckets\.b\.profil: no such key\. Did you mean profile"),
        ("[buckets.b]\nanonymous = 'yes'", r"buckets\.b\.anonymous: 'yes'; expected true or false"),
        ("[buckets.b]\nsse = 'rot13'", r"buckets\.b\.sse: 'rot13'; expected"),
        ("[bucket.b]", "bucket: no such key"),
        ("buckets", "it is not TOML"),
        ('[buckets."s3://b"]\nanonymous = true', "expected the name of one bucket alone"),
        ('[buckets."zoo-*"]\nanonymous = true', "expected the name of one bucket alone"),
        ('[buckets.b]\nsse_kms_key_id = "k"', r'expected sse = "aws:kms"'),
        ('[buckets.b]\nendpoint = "minio:9000"', "begins with http:// or https://"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "lego-ray.toml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        bucket_settings("b")


def test_the_file_may_be_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGO_RAY_CONFIG", str(folder / "mine.toml"))
    with pytest.raises(InvalidOption, match="LEGO_RAY_CONFIG"):
        bucket_settings("b")
    (folder / "mine.toml").write_text("[buckets.b]\nregion = 'eu-west-1'\n")
    assert bucket_settings("b") == BucketSettings(region="eu-west-1")


def test_settings_travel_to_workers_and_end_with_the_run(folder: Path) -> None:
    assert settings_here() == {}
    (folder / "lego-ray.toml").write_text("[buckets.b]\nregion = 'eu-west-1'\n")
    with buckets_in_use({"c": BucketSettings(profile="p"), "b": BucketSettings(region="r")}):
        assert json.loads(settings_here()["LEGO_RAY_BUCKETS"]) == {
            "b": {"region": "r"},
            "c": {"profile": "p"},
        }
    assert json.loads(settings_here()["LEGO_RAY_BUCKETS"]) == {"b": {"region": "eu-west-1"}}
