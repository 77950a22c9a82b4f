"""What is particular to S3: credentials, faults on the way, and servers that keep no promise."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lego_ray.errors import (
    AccessDenied,
    AlreadyExists,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
    UnsafeStore,
    UnsupportedUri,
)
from lego_ray.storage import ByteRange, S3Store, Store, open_store, probe_create_only
from lego_ray.storage.s3_client import s3_client
from tests.ceph_gateway import S3Server
from tests.storage.fake_s3 import FakeS3, fake_s3
from tests.storage.scripted_proxy import ScriptedProxy, scripted_proxy


@pytest.fixture
def proxy(s3_env: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedProxy]:
    """A proxy before the server, which boto3 is pointed at."""
    with scripted_proxy(s3_env.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        yield proxy


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """A scripted server, which boto3 is pointed at."""
    with fake_s3() as fake:
        for name, value in S3Server(fake.endpoint_url, "key", "secret").environ().items():
            monkeypatch.setenv(name, value)
        yield fake


def uses(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.read("a"),
        lambda: store.stat("a"),
        lambda: store.read_ranges("a", [ByteRange(0, 1)]),
        lambda: list(store.list()),
        lambda: store.create("a", b""),
        lambda: store.delete("a"),
        lambda: probe_create_only(store),
    ]


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_denied(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "wrong")
    for use in uses(S3Store(s3_bucket)):
        with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID") as caught:
            use()
        assert "wrong" not in str(caught.value)


def test_no_credentials_are_denied_at_once(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for use in uses(S3Store("bucket")):
        with pytest.raises(AccessDenied, match="Set AWS_ACCESS_KEY_ID"):
            use()


def test_an_unknown_profile_is_denied(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessDenied, match="nobody"):
        S3Store("bucket").read("a")


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_not_found(s3_env: S3Server) -> None:
    store = open_store("s3://no-such-bucket-here/x")
    for use in uses(store)[:1] + uses(store)[3:5]:
        with pytest.raises(ObjectNotFound, match="no such bucket"):
            use()
    with pytest.raises(ObjectNotFound):
        store.stat("a")


@pytest.mark.parametrize("bucket", ["a b", "UPPER/"])
def test_a_name_no_bucket_has_is_refused(fake: FakeS3, bucket: str) -> None:
    with pytest.raises(UnsupportedUri, match="bucket"):
        S3Store(bucket).read("a")


def test_a_malformed_endpoint_is_refused(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(UnsupportedUri, match="AWS_ENDPOINT_URL"):
        S3Store("bucket").read("a")


def test_an_endpoint_nobody_listens_at_is_given_up_soon(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # so that nobody else can; who does not listen is not reached
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match="AWS_ENDPOINT_URL"):
            S3Store("bucket").read("a")
    assert len(waits) == 4
    assert all(wait <= 2**number for number, wait in enumerate(waits))  # seconds


def test_an_endpoint_of_ones_own_is_addressed_by_path(fake: FakeS3) -> None:
    S3Store("bucket", "p").create("a", b"x")
    assert list(fake.objects) == ["/bucket/p/a"]


def test_the_endpoint_may_be_given(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = S3Store("bucket", endpoint_url=fake.endpoint_url)
    pickle.loads(pickle.dumps(store)).create("a", b"x")
    assert list(fake.objects) == ["/bucket/a"]


def test_stores_of_a_process_share_a_client_until_the_environment_changes(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = s3_client(None, 5)
    assert s3_client(None, 5) is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert s3_client(None, 5) is not first


@pytest.mark.s3
def test_a_forked_process_opens_its_own_connections(s3_bucket: str) -> None:
    store = S3Store(s3_bucket)
    store.create("a", b"xyz")
    child = os.fork()
    if not child:
        os._exit(0 if store.read("a") == b"xyz" else 1)
    assert store.read("a") == b"xyz"
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.s3
@pytest.mark.parametrize("fault", ["reset", "slow_down", "lost_answer"])
def test_faults_before_the_answer_are_tried_again(
    proxy: ScriptedProxy, s3_bucket: str, fault: str
) -> None:
    store = S3Store(s3_bucket)
    store.create("a", b"xyz")
    for use in uses(store)[:4]:
        proxy.script = [fault, fault]
        use()
        assert proxy.script == []
    assert store.read("a") == b"xyz"


@pytest.mark.s3
def test_a_server_that_stays_busy_is_given_up(proxy: ScriptedProxy, s3_bucket: str) -> None:
    proxy.script = ["slow_down"] * 10
    with pytest.raises(StoreUnavailable, match="503 SlowDown, 3 times"):
        S3Store(s3_bucket, attempts=3).read("a")
    assert len(proxy.script) == 7


@pytest.mark.s3
def test_a_create_whose_answer_was_lost_knows_its_own_object(
    proxy: ScriptedProxy, s3_bucket: str
) -> None:
    proxy.script = ["lost_answer"]
    store = S3Store(s3_bucket)
    store.create("a", b"xyz")
    assert store.read("a") == b"xyz"
    with pytest.raises(AlreadyExists):
        store.create("a", b"xyz")


@pytest.mark.s3
def test_a_lost_answer_does_not_claim_anothers_object(proxy: ScriptedProxy, s3_bucket: str) -> None:
    S3Store(s3_bucket).create("a", b"xyz")
    proxy.script = ["lost_answer"]
    with pytest.raises(AlreadyExists):
        S3Store(s3_bucket).create("a", b"xyz")


@pytest.mark.s3
def test_a_body_cut_short_is_fetched_again(proxy: ScriptedProxy, s3_bucket: str) -> None:
    data = os.urandom(1 << 20)
    S3Store(s3_bucket).create("a", data)
    store = S3Store(s3_bucket)
    uses: list[Callable[[], bytes | memoryview]] = [
        lambda: store.read("a"),
        lambda: store.read_ranges("a", [ByteRange(0, len(data))])[0],
    ]
    for use in uses:
        proxy.script = ["truncated", "truncated"]
        assert bytes(use()) == data
        assert proxy.script == []


@pytest.mark.s3
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.HTTPWarning")
def test_a_head_cut_short_anywhere_is_asked_for_again(proxy: ScriptedProxy, s3_bucket: str) -> None:
    """What is left of it may still be read as an answer, with headers missing or cut."""
    data = bytes(1000)
    store = S3Store(s3_bucket)
    store.create("a", data)
    uses: tuple[Callable[[], Any], ...] = (
        lambda: store.read("a"),
        lambda: store.read_ranges("a", [ByteRange(10, 900)])[0],
        lambda: store.stat("a").size,
    )
    for proxy.cut_after in range(1, 420, 6):
        for use in uses:
            proxy.script = ["truncated"]
            got = use()
            wanted = {1000: data, 890: data[10:900]}
            assert got == 1000 or bytes(got) == wanted[len(got)], proxy.cut_after


@pytest.mark.s3
def test_a_body_always_cut_short_is_an_error(proxy: ScriptedProxy, s3_bucket: str) -> None:
    store = S3Store(s3_bucket, attempts=2)
    store.create("a", bytes(1 << 20))
    proxy.script = ["truncated"] * 20
    with pytest.raises(StoreUnavailable, match="cut short"):
        store.read("a")
    with pytest.raises(StoreUnavailable, match="cut short"):
        store.read_ranges("a", [ByteRange(0, 1 << 20)])


@pytest.mark.s3
def test_an_object_replaced_while_it_is_read_is_an_error(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(s3_bucket)
    size = 4 << 20
    store.create("a", bytes(size))
    seen: list[str] = []
    fetch = store._fetch

    def replace_after_the_first(
        key: str, part: ByteRange, into: memoryview, version: str | None
    ) -> str:
        if seen:
            store.delete("a")
            store.create("a", b"\1" * size)
        seen.append(fetch(key, part, into, version))
        return seen[-1]

    store._fetch = replace_after_the_first  # type: ignore[method-assign]
    far = [ByteRange(0, 1), ByteRange(size - 1, size)]
    monkeypatch.setattr("lego_ray.storage.s3.REMOTE_THREADS", 1)
    with pytest.raises(StorageError, match="replaced while it was read"):
        store.read_ranges("a", far)


@pytest.mark.s3
def test_folder_marks_are_no_objects(s3_bucket: str) -> None:
    client = s3_client(None, 5)
    for key in ("zoo/", "zoo/alice/", "zoo/alice/a"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=b"")
    assert [info.key for info in S3Store(s3_bucket, "zoo").list()] == ["alice/a"]


@pytest.mark.s3
def test_keys_others_wrote_oddly_are_read(s3_bucket: str) -> None:
    s3_client(None, 5).put_object(Bucket=s3_bucket, Key="zoo/a//b", Body=b"x")
    store = S3Store(s3_bucket, "zoo")
    assert [store.read(info.key) for info in store.list()] == [b"x"]


def test_a_store_that_ignores_create_only_writes_is_refused(fake: FakeS3) -> None:
    with pytest.raises(UnsafeStore, match="If-None-Match") as caught:
        probe_create_only(open_store("s3://bucket/out"))
    assert caught.value.where == "s3://bucket/out"
    assert caught.value.exit_code == 2
    assert fake.puts == ["*", "*"]
    assert fake.objects == {}


def test_a_conflict_of_writers_is_tried_again(fake: FakeS3) -> None:
    fake.put_answers = [(409, "ConditionalRequestConflict")] * 2
    S3Store("bucket").create("a", b"x")
    assert fake.objects == {"/bucket/a": b"x"}
    assert len(fake.puts) == 3


def test_a_conflict_that_ends_in_anothers_win_is_said(fake: FakeS3) -> None:
    fake.objects["/bucket/a"] = b"theirs"
    fake.put_answers = [(409, "ConditionalRequestConflict"), (412, "PreconditionFailed")]
    with pytest.raises(AlreadyExists):
        S3Store("bucket").create("a", b"x")


def test_conflicts_without_end_are_given_up(fake: FakeS3) -> None:
    fake.put_answers = [(409, "ConditionalRequestConflict")] * 50
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        S3Store("bucket").create("a", b"x")
    assert len(fake.puts) == 6


def test_a_server_that_ignores_ranges_is_an_error(fake: FakeS3) -> None:
    fake.objects["/bucket/a"] = bytes(100)
    fake.ignore_ranges = True
    with pytest.raises(StorageError, match="the whole object"):
        S3Store("bucket").read_ranges("a", [ByteRange(0, 10)])


def test_a_body_shorter_than_its_range_says_is_an_error(fake: FakeS3) -> None:
    fake.objects["/bucket/a"] = bytes(5)
    with pytest.raises(StorageError, match="bytes 0 to 10 were asked for"):
        S3Store("bucket").read_ranges("a", [ByteRange(0, 10)])


def test_threads_make_one_client(fake: FakeS3) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: id(s3_client(None, 5)), range(50)))) == 1
