from __future__ import annotations

from pathlib import Path

import pytest

from replicate.errors import ConflictError, CorruptionError, StorageMissingError, UnsupportedFormatError
from replicate.host import Host
from replicate.repository import MARKER, MARKER_KEY
from replicate.sync import create_store
from replicate.sync.control import Control, read_control
from replicate.sync.transfer import place_of
from replicate.transport import LocalTransport, MemoryTransport
from tests.sync.stores import Remote, new_remote

HOST = Host()


def test_a_store_is_made_in_an_empty_place_once() -> None:
    remote = Remote()
    assert create_store(remote, HOST)
    keys = remote.present("")
    assert [key for key in keys if not key.startswith("ctl/store~")] == [MARKER_KEY]
    assert len(keys) == 2
    assert not create_store(remote, HOST)
    assert remote.present("") == keys


def test_two_that_make_a_store_at_once_make_one() -> None:
    remote = Remote()

    def meanwhile(verb: str, key: str) -> None:
        if (verb, key) == ("list", ""):  # the first has seen that there is no store
            remote.before = lambda verb, key: None
            assert create_store(remote, HOST)

    remote.before = meanwhile
    assert create_store(remote, HOST)
    assert not create_store(remote, HOST)
    assert len(remote.present("ctl/")) == 2


def test_the_marker_comes_last() -> None:
    remote = new_remote()
    remote.empty()
    create_store(remote, HOST)
    puts = [key for verb, key in remote.requests if verb == "put"]
    assert puts[-1] == MARKER_KEY


@pytest.mark.parametrize("left", ["ctl/store~" + "1" * 32, "packs/ab/" + "ab" * 32, "refs/ab/" + "ab" * 32 + "~x"])
def test_parts_of_a_store_become_one(left: str) -> None:
    remote = Remote()
    remote.inner.put(left, b"")
    assert create_store(remote, HOST)
    assert len(remote.present("ctl/store~")) == 1
    assert left in remote.present("")


@pytest.mark.parametrize("name", ["data.csv", "packs/mine", "ctl/other", "refs/heads/main"])
def test_no_store_is_made_among_other_things(name: str) -> None:
    remote = Remote()
    remote.inner.put(name, b"")
    with pytest.raises(ConflictError) as raised:
        create_store(remote, HOST)
    assert str(raised.value) == (
        f"memory://remote holds other things, such as {name}: no store is made among them "
        "(hint: name an empty place, such as memory://remote/replicate)"
    )
    assert remote.present("") == {name}


def test_a_marked_place_may_hold_other_things() -> None:
    remote = new_remote()
    remote.inner.put("data.csv", b"")
    assert not create_store(remote, HOST)


def test_a_bucket_that_is_not_there_is_made() -> None:
    class Bucket(Remote):
        made = False

        def create(self) -> None:
            self.made = True

    bucket = Bucket()

    def missing(verb: str, key: str) -> None:
        if not bucket.made:
            raise StorageMissingError("no such bucket")

    bucket.before = missing
    assert create_store(bucket, HOST)
    assert bucket.made


def test_a_bucket_that_cannot_be_made_is_an_error() -> None:
    remote = Remote()

    def missing(verb: str, key: str) -> None:
        raise StorageMissingError("no such bucket")

    remote.before = missing
    with pytest.raises(StorageMissingError, match="no such bucket"):
        create_store(remote, HOST)


def test_a_newer_format_is_refused() -> None:
    remote = Remote()
    remote.inner.put("ctl/v2", b"")
    for act in (lambda: create_store(remote, HOST), lambda: read_control(remote), lambda: Control(remote, HOST)):
        with pytest.raises(UnsupportedFormatError, match="has format 2"):
            act()


def test_a_marker_of_another_length_is_read() -> None:
    remote = Remote()
    remote.inner.put(MARKER_KEY, MARKER[:5])
    assert "v1" in read_control(remote)  # cut short: whoever writes makes it whole
    create_store(remote, HOST)
    assert remote.inner.get(MARKER_KEY) == MARKER
    remote.inner.put(MARKER_KEY, b"something else")
    with pytest.raises(CorruptionError):
        read_control(remote)


def test_one_request_tells_everything() -> None:
    remote = new_remote()
    Control(remote, HOST)
    assert remote.counted() == {"list ctl": 1}


def test_a_look_is_good_for_an_hour_by_either_clock() -> None:
    clock = {"monotonic": 0, "wall": 0}
    host = Host(monotonic_ns=lambda: clock["monotonic"], now_ns=lambda: clock["wall"])
    remote = new_remote()
    control = Control(remote, host)
    hour = 3600 * 10**9
    for changes, looks in (
        ({"monotonic": hour}, 0),
        ({"monotonic": hour + 1}, 1),
        ({"wall": hour + 1}, 1),
        ({"wall": 0}, 0),  # the clock was set back
    ):
        remote.counted()
        clock |= changes
        control.validate()
        assert remote.counted().total() == looks


def test_a_store_that_others_were_united_with_is_the_same() -> None:
    remote = new_remote()
    control = Control(remote, HOST)
    remote.inner.put("ctl/store~" + "f" * 32, b"")
    control.confirm()


def test_places_are_named_as_people_do(tmp_path: Path) -> None:
    assert place_of(LocalTransport(tmp_path)) == str(tmp_path)
    assert place_of(Remote(url="s3://bucket")) == "s3://bucket"
    assert place_of(MemoryTransport()) == "the store in memory"
