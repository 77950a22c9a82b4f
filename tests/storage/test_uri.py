from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lego_ray.errors import ObjectNotFound, UnsupportedUri
from lego_ray.sources.find import find, open_source
from lego_ray.storage import FileStore, HubStore, S3Store, join, normalize_uri, open_store
from lego_ray.storage.places import FilePlace, HubPlace, WebPlace
from lego_ray.storage.uri import parse_uri

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("/a//b/./c/../d", "/a/b/d"),
        ("/", "/"),
        ("//a", "/a"),
        ("file:///a/b%20c/", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a b/c#d?e/", "s3://bucket/a b/c#d?e"),
        ("hf://org/zoo", "hf://org/zoo"),
        ("hf://models/org/zoo/", "hf://org/zoo"),
        ("hf://org/zoo@v1.0", "hf://org/zoo@v1.0"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("gs://bucket/a b/", "gs://bucket/a b"),
        ("gcs://bucket", "gs://bucket"),
        ("az://container/x", "az://container/x"),
        ("azure://container/x", "az://container/x"),
        ("https://huggingface.co/org/zoo", "hf://org/zoo"),
        ("https://hf.co/org/zoo/", "hf://org/zoo"),
        ("https://huggingface.co/org/zoo/tree/v1/a%20b/c?x=y#z", "hf://org/zoo@v1/a b/c"),
        (
            "https://huggingface.co/org/zoo/blob/main/x.safetensors",
            "hf://org/zoo@main/x.safetensors",
        ),
        ("hf://org/zoo@v1/adapters/qa/", "hf://org/zoo@v1/adapters/qa"),
        (f"hf://org/zoo@{COMMIT}", f"hf://org/zoo@{COMMIT}"),
        ("hf://org/zoo@refs/pr/12/sub", "hf://org/zoo@refs/pr/12/sub"),
        ("hf://org/zoo@feature%2Fx/sub", "hf://org/zoo@feature%2Fx/sub"),
        ("hf://org/zoo/sub/at@sign", "hf://org/zoo/sub/at@sign"),
    ],
)
def test_each_place_is_written_one_way(uri: str, expected: str) -> None:
    assert normalize_uri(uri) == expected
    assert normalize_uri(expected) == expected


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert normalize_uri("zoo") == f"{tmp_path}/zoo"
    assert normalize_uri(".") == str(tmp_path)
    assert normalize_uri("~/zoo") == "/home/someone/zoo"
    assert normalize_uri(tmp_path / "zoo") == f"{tmp_path}/zoo"


def test_an_opened_store_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("zoo")
    monkeypatch.chdir("/")
    assert store.uri == f"{tmp_path}/zoo"


def test_a_hub_revision_with_a_slash_is_read_back() -> None:
    assert parse_uri("hf://org/zoo@feature%2Fx/sub") == HubPlace("org/zoo", "feature/x", "sub")
    assert parse_uri("hf://org/zoo@refs/pr/3") == HubPlace("org/zoo", "refs/pr/3", "")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a\0b",
        "gs://",
        "az:///x",
        "ftp://host/x",
        "http://host/x",
        "s3://",
        "s3:///key",
        "file://host/path",
        "file://relative",
        "hf://zoo",
        "hf://org/zoo@",
        "hf://org/zoo@/sub",
        "hf://datasets/org/zoo",
        "https://huggingface.co/datasets/org/zoo",
        "https://huggingface.co/spaces/org/zoo/tree/main",
        "https://huggingface.co/org/zoo/discussions/3",
        "https://huggingface.co/org",
        "hf://org/z o",
        "hf://collections/org/zoo-65f0",
    ],
)
def test_other_forms_are_refused_with_those_that_work(uri: str) -> None:
    with pytest.raises(UnsupportedUri, match=r"hf://owner/name") as caught:
        parse_uri(uri)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("s3:/b/k", "s3://b/k"),
        ("S3:b", "s3://b"),
        ("hf:o/n", "hf://o/n"),
        ("file:/a/b", "file:///a/b"),
        ("https://b.s3.eu-west-1.amazonaws.com/k", "s3://b/k"),
        ("https://s3.amazonaws.com/b/k", "s3://b/k"),
    ],
)
def test_what_is_nearly_a_place_is_refused_with_the_place(uri: str, meant: str) -> None:
    """Taken for a path, it would be written to a folder of that name."""
    with pytest.raises(UnsupportedUri) as caught:
        parse_uri(uri)
    assert f"Give {meant}." in caught.value.hint


def test_a_link_to_one_file_of_a_bucket_is_a_file_of_the_web() -> None:
    link = "https://b.s3.eu-west-1.amazonaws.com/k/a.safetensors"
    assert parse_uri(link) == WebPlace(link)


def test_a_path_may_have_such_a_name_if_it_says_so() -> None:
    assert parse_uri("./s3:/b") == FilePlace(str(Path.cwd() / "s3:/b"))
    assert parse_uri("c:/x") == FilePlace(str(Path.cwd() / "c:/x"))


@pytest.mark.parametrize(
    ("uri", "key", "expected"),
    [
        ("/a/", "b/c", "/a/b/c"),
        ("/", "b", "/b"),
        ("s3://b", "k", "s3://b/k"),
        ("s3://b/p/", "k/l", "s3://b/p/k/l"),
        ("hf://org/zoo@v1", "k", "hf://org/zoo@v1/k"),
        ("s3://b/p", "", "s3://b/p"),
    ],
)
def test_join(uri: str, key: str, expected: str) -> None:
    assert join(uri, key) == expected


URIS = ["/", "/a", "/a/b", "s3://b", "s3://b/p/q", "hf://o/n", "hf://o/n@v1", "hf://o/n@f%2Fx/s/t"]


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("key", ["", "k", "k/l", "/k/", "k/../l", "at@sign", "\udcff"])
def test_a_place_joins_as_its_text_does(uri: str, key: str) -> None:
    assert str(parse_uri(uri).join(key)) == join(uri, key)


@pytest.mark.parametrize(
    ("uri", "above", "name"),
    [
        ("/a", "/", "a"),
        ("/a/b", "/a", "b"),
        ("s3://b/k", "s3://b", "k"),
        ("s3://b/p/k", "s3://b/p", "k"),
        ("hf://o/n@v1/k", "hf://o/n@v1", "k"),
        ("hf://o/n@refs/pr/3/s/k", "hf://o/n@refs/pr/3/s", "k"),
    ],
)
def test_a_place_is_split_into_the_one_above_and_a_name(uri: str, above: str, name: str) -> None:
    assert parse_uri(uri).split() == (parse_uri(above), name)
    assert parse_uri(above).join(name) == parse_uri(uri)


@pytest.mark.parametrize("uri", ["/", "s3://b", "hf://o/n", "hf://o/n@v1"])
def test_nothing_is_above_the_root_of_a_store(uri: str) -> None:
    assert parse_uri(uri).split() is None


@pytest.mark.parametrize(
    ("uri", "folder", "key"),
    [
        ("/a/b/c", "/a", "b/c"),
        ("/a", "/", "a"),
        ("s3://b/p/k", "s3://b", "p/k"),
        ("hf://o/n@v1/s", "hf://o/n@v1", "s"),
    ],
)
def test_a_place_below_a_folder_is_inside_of_it(uri: str, folder: str, key: str) -> None:
    assert parse_uri(uri).key_below(parse_uri(folder)) == key
    assert parse_uri(uri).is_inside(parse_uri(folder))
    assert not parse_uri(folder).is_inside(parse_uri(uri))


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/ab", "/a"),
        ("s3://bc/k", "s3://b"),
        ("s3://b/pq", "s3://b/p"),
        ("hf://o/n@v1", "hf://o/n"),
    ],
)
def test_a_place_beside_a_folder_is_not_inside_of_it(uri: str, folder: str) -> None:
    assert not parse_uri(uri).is_inside(parse_uri(folder))


@pytest.mark.parametrize("uri", URIS)
def test_a_place_is_inside_of_itself_opens_there_and_travels(uri: str) -> None:
    place = parse_uri(uri)
    assert place.is_inside(place)
    assert place.key_below(place) == ""
    assert place.open().place == place
    assert place.open().uri == str(place)
    assert pickle.loads(pickle.dumps(place)) == place


def test_open_store_goes_by_the_scheme() -> None:
    assert isinstance(open_store("/a"), FileStore)
    assert isinstance(open_store("file:///a"), FileStore)
    assert isinstance(open_store("s3://b/p"), S3Store)
    assert isinstance(open_store("hf://org/zoo"), HubStore)
    assert open_store("s3://b/p/").uri == "s3://b/p"
    assert open_store("hf://org/zoo@v1/sub/").uri == "hf://org/zoo@v1/sub"
    with pytest.raises(UnsupportedUri):
        FileStore("s3://b/p")


def test_the_storage_room_loads_no_client_library() -> None:
    code = (
        "import sys, lego_ray.storage as s; s.open_store('s3://b/p'); s.open_store('hf://o/n');"
        "print([m for m in ('boto3', 'botocore', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("org/zoo", "hf://org/zoo"),
        ("zoo", "Check the path"),
        ("hf.co/org/zoo", "hf://org/zoo"),
        ("huggingface.co/org/zoo/tree/v1/sub", "hf://org/zoo@v1/sub"),
    ],
)
def test_a_bare_name_that_is_not_there_is_answered_with_the_hubs_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ObjectNotFound, match=hint):
        list(find(*open_source(name)))
