"""URLs of repositories and their options; what is opened for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.errors import InvalidInputError, MissingPackageError
from replicate.transport import LocalTransport
from replicate.transport.remote import RemoteTransport, open_transport
from replicate.transport.remote.location import Location, StorageOptions, parse_location, parse_options


@pytest.mark.parametrize(
    ("url", "parsed", "canonical"),
    [
        ("s3://bucket", Location("s3", "bucket", ""), "s3://bucket"),
        ("s3a://bucket//a/b//", Location("s3", "bucket", "a/b"), "s3://bucket/a/b"),
        ("S3://bucket/a b", Location("s3", "bucket", "a b"), "s3://bucket/a b"),
        ("gcs://my.bucket_1/x", Location("gs", "my.bucket_1", "x"), "gs://my.bucket_1/x"),
        ("az://container/x", Location("az", "container", "x"), "az://container/x"),
        ("abfss://c-1@account.dfs.core.windows.net/x", Location("abfs", "c-1@account.dfs.core.windows.net", "x"), None),
        ("sftp://me@server:2222/data/store/", Location("sftp", "me@server:2222", "data/store"), None),
        ("ssh://[::1]:22/x", Location("sftp", "[::1]:22", "x"), "sftp://[::1]:22/x"),
        ("memory://a/b", Location("memory", "", "a/b"), "memory:///a/b"),
        ("webdav://server/x", Location("webdav", "server", "x"), "webdav://server/x"),
    ],
)
def test_a_url_says_where(url: str, parsed: Location, canonical: str | None) -> None:
    assert parse_location(url) == parsed
    assert parsed.url == canonical or canonical is None
    assert parse_location(parsed.url) == parsed


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftpp://x", "unknown scheme 'sftpp' in sftpp://x (hint: did you mean sftp://?)"),
        ("quux://x", "unknown scheme 'quux' in quux://x (hint: use s3, gs, az, sftp, or the path of a folder)"),
        ("https://host/x", "cannot write to https://host/x: https is for reading (hint: use s3, gs, az or sftp)"),
        ("s3://", "no bucket in the URL s3:// (hint: write it like s3://bucket/path)"),
        ("s3:///x", "no bucket in the URL s3:///x (hint: write it like s3://bucket/path)"),
        ("gs://a/x", "not a bucket's name: 'a' in the URL gs://a/x (hint: write it like gs://bucket/path)"),
        ("az://-/x", "not a container's name: '-' in the URL az://-/x (hint: write it like az://container/path)"),
        ("sftp://server", "no folder in the URL sftp://server (hint: write it like sftp://user@server/path)"),
        ("sftp:///x", "no server in the URL sftp:///x (hint: write it like sftp://user@server/path)"),
        ("s3://bucket/a/../b", "the path of s3://bucket/a/../b may not have . or .. in it"),
        (
            "simplecache::s3://bucket/x",
            "not the URL of a repository: 'simplecache::s3://bucket/x' (hint: write it like s3://",
        ),
        ("s3://bucket/x?versionId=1", "not the URL of a repository: 's3://bucket/x?versionId=1' (hint: `?`, `#` and b"),
        ("s3://bucket/x\n", "not the URL of a repository: 's3://bucket/x\\n' (hint: `?`, `#` and b"),
        (
            "s3://key:secret@bucket/x",
            "there are credentials in the URL s3://***@bucket/x (hint: remove them, as others",
        ),
        ("sftp://me:secret@server/x", "there are credentials in the URL sftp://***@server/x (hint: remove them, as"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_transport(url)
    assert str(caught.value).startswith(said)
    assert "secret" not in str(caught.value)


def test_options_become_types() -> None:
    given = {"endpoint": "http://host:9000/", "profile": "p", "region": "r", "anonymous": "True"}
    assert parse_options("s3", given) == StorageOptions("http://host:9000", "p", "r", True)
    assert parse_options("sftp", {}) == StorageOptions()


@pytest.mark.parametrize(
    ("scheme", "given", "said"),
    [
        ("s3", {"secret": "abc"}, "unknown option 'secret' of a repository (hint: the options are endpoint, profile, "),
        ("gs", {"profile": "p"}, "'profile' has no meaning for gs:// (hint: remove `profile:`)"),
        ("sftp", {"endpoint": "http://x"}, "'endpoint' has no meaning for sftp:// (hint: remove `endpoint:`)"),
        ("s3", {"anonymous": "maybe"}, "`anonymous` is true or false, not 'maybe'"),
        ("s3", {"endpoint": "host:9000"}, "not an endpoint: 'host:9000' (hint: write it like https://storage.example"),
        ("s3", {"endpoint": "http://u:abc@h"}, "not an endpoint: 'http://***@h' (hint: write it like https://storage."),
        ("s3", {"endpoint": "http://h/?sig=abc"}, "not an endpoint: 'http://h/' (hint: write it like https://storage."),
    ],
)
def test_a_wrong_option_is_refused(scheme: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_options(scheme, given)
    assert str(caught.value).startswith(said)
    assert "abc" not in str(caught.value)


def test_a_folder_is_opened_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (f"{tmp_path}/store", f"file://{tmp_path}/store", "~/store"):
        opened = open_transport(place)
        assert isinstance(opened, LocalTransport)
        assert opened.root == f"{tmp_path}/store"


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("s3://bucket", "s3fs", "s3"),
        ("gs://bucket", "gcsfs", "gs"),
        ("az://bucket", "adlfs", "azure"),
        ("abfs://bucket", "adlfs", "azure"),
        ("sftp://server/x", "paramiko", "sftp"),
    ],
)
def test_a_missing_extra_is_named(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        open_transport(url)
    assert str(caught.value) == (
        f"{url.partition(':')[0]}:// needs the package {package}, which is not installed "
        f"(hint: run: pip install 'replicate-vc[{extra}]')"
    )


def test_the_extras_of_the_package_are_those_that_are_named() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for package, extra in (("s3fs", "s3"), ("gcsfs", "gs"), ("adlfs", "azure"), ("paramiko", "sftp")):
        assert f'\n{extra} = ["{package}>=' in text


def test_opening_a_url_imports_nothing_slow_and_opening_a_folder_nothing_of_it() -> None:
    script = """
import sys
import replicate, replicate.transport, replicate.repository
assert not [name for name in sys.modules if name.startswith("replicate.transport.remote")]
from replicate.transport.remote import open_transport
open_transport("folder"), open_transport("s3://bucket"), open_transport("gs://bucket"), open_transport("sftp://a/b")
print(sorted({"fsspec", "s3fs", "gcsfs", "paramiko", "aiohttp", "botocore"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_transport_shows_its_url_and_nothing_else() -> None:
    opened = open_transport("s3://bucket/a", {"endpoint": "http://host", "profile": "p"})
    assert isinstance(opened, RemoteTransport)
    assert repr(opened) == "RemoteTransport('s3://bucket/a')"
