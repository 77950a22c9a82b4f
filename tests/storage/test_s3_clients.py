"""boto3, the Delta library and Arrow reach a server the same way: by one set of settings."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from lego_ray.catalog.opening import check_before_writing, open_catalog
from lego_ray.errors import AccessDenied, InvalidOption, StoreUnavailable
from lego_ray.storage import delta_storage_options, open_store
from lego_ray.storage.buckets import BucketSettings
from lego_ray.storage.s3_client import s3_client, s3_reach
from lego_ray.storage.uri import parse_uri
from tests.catalog.sample import merge
from tests.ceph_gateway import S3Server, second_user
from tests.s3_fronts import Proxy, http_proxy, tls_front

ALL = {"boto3", "delta", "arrow"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a private authority's certificate, and of a server's that it vouches for."""
    folder = tmp_path_factory.mktemp("authority")
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "authority.pem")
    leaf = made.issue_cert("localhost", "127.0.0.1", "*.localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder / "authority.pem", folder / "server.pem"


@pytest.fixture
def secure(s3_env: S3Server, authority: tuple[Path, Path]) -> Iterator[str]:
    """`host:port` of a front that speaks TLS before the server."""
    with tls_front(s3_env.endpoint_url, authority[1]) as address:
        yield address


@pytest.fixture
def proxy(s3_env: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy, which alone leads to the server."""
    with http_proxy(s3_env.endpoint_url, tmp_path / "proxy.log") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost")
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        yield proxy


def use_all(bucket: str) -> None:
    """Writes and reads objects by boto3, and a table by the Delta library and Arrow."""
    store = open_store(f"s3://{bucket}/a")
    store.create("x", b"bytes")
    assert store.read("x") == b"bytes"
    catalog = open_catalog(f"s3://{bucket}/catalog")
    check_before_writing(catalog)
    catalog.append("merges", [merge()])
    assert catalog.read("merges").num_rows == 1


@pytest.mark.s3
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_all_trust_a_private_authority(
    secure: str,
    s3_bucket: str,
    authority: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{secure}")
    monkeypatch.setenv(variable, str(authority[0]))
    use_all(s3_bucket)


@pytest.mark.s3
def test_a_profile_names_the_certificates_the_style_and_the_server(
    secure: str,
    s3_env: S3Server,
    s3_bucket: str,
    authority: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = secure.rpartition(":")[2]
    (tmp_path / "config").write_text(
        f"[profile lab]\nca_bundle = {authority[0]}\nregion = us-east-1\n"
        f"aws_access_key_id = {s3_env.access_key}\naws_secret_access_key = {s3_env.secret_key}\n"
        f"services = lab\ns3 =\n  addressing_style = path\n"
        f"[services lab]\ns3 =\n  endpoint_url = https://localhost:{port}\n"
    )
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    use_all(s3_bucket)


@pytest.mark.s3
def test_an_unknown_authority_is_said_with_what_to_set(
    secure: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{secure}")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    with pytest.raises(StoreUnavailable, match="set AWS_CA_BUNDLE"):
        open_store(f"s3://{s3_bucket}").read("a")
    with pytest.raises(StoreUnavailable, match="set AWS_CA_BUNDLE"):
        open_catalog(f"s3://{s3_bucket}/c").exists("merges")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    for name, value in S3Server("http://127.0.0.1:1", "k", "s").environ().items():
        monkeypatch.setenv(name, value)
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(InvalidOption, match=r"AWS_CA_BUNDLE: .*ca\.pem cannot be used"):
        open_store("s3://b").read("a")
    with pytest.raises(InvalidOption, match=r"ca\.pem cannot be used"):
        open_catalog("s3://b/c")


def test_a_bundle_is_read_once_until_it_changes(
    authority: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in S3Server("http://127.0.0.1:1", "k", "s").environ().items():
        monkeypatch.setenv(name, value)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(authority[0].read_bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    s3_reach(BucketSettings())  # whose client reads it too
    read: list[str] = []
    made = ssl.create_default_context

    def reading(cafile: str) -> ssl.SSLContext:
        read.append(cafile)
        return made(cafile=cafile)

    monkeypatch.setattr(ssl, "create_default_context", reading)
    for _ in range(3):
        assert s3_reach(BucketSettings()).settings.ca_bundle == str(bundle)
    assert read == []
    bundle.write_text("no certificate")
    with pytest.raises(InvalidOption, match=r"ca\.pem cannot be used"):
        s3_reach(BucketSettings())


@pytest.mark.s3
@pytest.mark.parametrize("style", ["path", "virtual"])
def test_all_go_through_the_proxy_by_the_same_name(
    proxy: Proxy, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    use_all(s3_bucket)
    host = "localhost" if style == "path" else f"{s3_bucket}.localhost"
    assert {(each.client, each.host) for each in proxy.seen()} == {(name, host) for name in ALL}


@pytest.mark.s3
def test_all_tunnel_through_the_proxy_to_a_server_with_tls(
    secure: str,
    s3_env: S3Server,
    s3_bucket: str,
    authority: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://localhost")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority[0]))
    with http_proxy(s3_env.endpoint_url, tmp_path / "log", tunnels_to=secure) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        use_all(s3_bucket)
        assert {(each.method, each.host) for each in proxy.seen()} == {("CONNECT", "localhost")}


@pytest.mark.s3
@pytest.mark.parametrize("around", ["127.0.0.1", "*", "localhost,127.0.0.1"])
def test_none_goes_through_the_proxy_where_no_proxy_says_so(
    proxy: Proxy,
    s3_server: S3Server,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    around: str,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    monkeypatch.setenv("NO_PROXY", around)
    use_all(s3_bucket)
    assert proxy.seen() == []


@pytest.mark.s3
@pytest.mark.parametrize(
    "variable",
    ["SKIP_SIGNATURE", "UNSIGNED_PAYLOAD", "REQUEST_PAYER", "VIRTUAL_HOSTED_STYLE_REQUEST"],
)
def test_variables_of_the_delta_library_alone_change_nothing(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(f"AWS_{variable}", "true")
    use_all(s3_bucket)


@pytest.mark.s3
def test_a_proxy_that_is_not_there_is_said_with_what_to_check(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match="Check HTTP_PROXY"):
        open_store(f"s3://{s3_bucket}").read("a")


@pytest.mark.parametrize(
    ("endpoint", "said", "wanted"),
    [
        ("", None, "when_supported"),
        ("http://127.0.0.1:1", None, "when_required"),
        ("http://127.0.0.1:1", "when_supported", "when_supported"),
        ("https://s3.eu-west-1.amazonaws.com", None, "when_supported"),
    ],
)
def test_checksums_are_added_for_aws_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str | None, wanted: str
) -> None:
    for name, value in S3Server(endpoint, "k", "s").environ().items():
        monkeypatch.setenv(name, value)
    if not endpoint:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    if said:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", said)
    config: Any = s3_client(None, 5).meta.config
    assert config.request_checksum_calculation == wanted


def test_a_server_named_by_a_profile_gets_no_checksums_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in S3Server("", "k", "s").environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    config = tmp_path / "config"
    config.write_text("[default]\nendpoint_url = https://s3.lab.example\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    found: Any = s3_client(None, 5).meta.config
    assert found.request_checksum_calculation == "when_required"


@pytest.mark.s3
def test_keys_replaced_in_a_file_are_used_after_a_refusal(
    s3_env: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "credentials"

    def write(access: str, secret: str) -> None:
        keys.write_text(f"[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n")

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    write("former", "key")
    store = open_store(f"s3://{s3_bucket}/a")
    with pytest.raises(AccessDenied, match="InvalidAccessKeyId"):
        store.create("x", b"1")
    write(s3_env.access_key, s3_env.secret_key)
    store.create("y", b"1")
    assert store.stat("y").size == 1
    use_all(s3_bucket)


@pytest.mark.s3
def test_keys_replaced_are_seen_by_the_delta_library_alone(
    s3_env: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "credentials"
    text = "[default]\naws_access_key_id={}\naws_secret_access_key={}\n"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    keys.write_text(text.format("former", "key"))
    catalog = open_catalog(f"s3://{s3_bucket}/catalog")
    with pytest.raises(AccessDenied):
        catalog.exists("merges")
    keys.write_text(text.format(s3_env.access_key, s3_env.secret_key))
    assert not catalog.exists("merges")


@pytest.mark.s3
def test_a_refusal_of_keys_that_stay_is_not_tried_again(
    proxy: Proxy, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = second_user(s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", other.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", other.secret_key)
    with pytest.raises(AccessDenied, match="403"):
        open_store(f"s3://{s3_bucket}").read("a")
    assert len(proxy.seen()) == 1


def test_sso_without_a_token_says_how_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in S3Server("http://127.0.0.1:1", "", "").environ().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        "[profile team]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = r\n"
        "region = us-east-1\n[sso-session corp]\nsso_start_url = https://corp.example/start\n"
        "sso_region = us-east-1\nsso_registration_scopes = sso:account:access\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    with pytest.raises(AccessDenied, match="aws sso login --profile team"):
        open_store("s3://b").read("a")
    with pytest.raises(AccessDenied, match="aws sso login --profile team"):
        open_catalog("s3://b/c")


def test_a_command_gives_the_keys_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server("http://127.0.0.1:1", "", "").environ().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = {"Version": 1, "AccessKeyId": "K", "SecretAccessKey": "S"}
    (tmp_path / "keys").write_text(json.dumps(keys))
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = cat {tmp_path / 'keys'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    options = delta_storage_options(parse_uri("s3://b/c"))
    assert (options["AWS_ACCESS_KEY_ID"], options["AWS_SECRET_ACCESS_KEY"]) == ("K", "S")


def test_other_regions_and_kinds_of_endpoints_of_aws_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in S3Server("", "k", "s").environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert s3_reach().settings.is_aws
    options = delta_storage_options(parse_uri("s3://zoo/c"))
    assert options["AWS_ENDPOINT_URL"] == "https://zoo.s3-fips.us-east-1.amazonaws.com"
    assert options["aws_virtual_hosted_style_request"] == "true"
    dotted = delta_storage_options(parse_uri("s3://zoo.acme/c"))
    assert dotted["AWS_ENDPOINT_URL"] == "https://s3-fips.us-east-1.amazonaws.com"
