"""What every transport does alike: one suite, run by a subclass for each."""

from __future__ import annotations

import threading

import pytest

from replicate.errors import InvalidInputError, KeyNotFoundError
from replicate.transport import Transport, validate_key

DATA = bytes(range(100))
INVALID_KEYS = (
    "",
    "/",
    "/refs/a",
    "refs/",
    "refs//a",
    ".",
    "..",
    "refs/../a",
    "refs/./a",
    "../a",
    "refs/A",
    "refs/a b",
    "refs/a\0",
    "refs/a\n",
    "refs/é",
    "refs/\udcff",
    "refs\\a",
    "refs/" + "a" * 256,
)


class TransportContract:
    """Subclass it with a fixture `transport` that gives an empty one."""

    # -- put and get

    def test_what_was_put_is_got(self, transport: Transport) -> None:
        transport.put("packs/aa/one", DATA)
        assert transport.get("packs/aa/one") == DATA

    def test_nothing_can_be_put(self, transport: Transport) -> None:
        transport.put("ctl/store~0", b"")
        assert transport.get("ctl/store~0") == b""
        assert transport.get("ctl/store~0", 0, 10) == b""

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_put(self, transport: Transport, make: type) -> None:
        transport.put("packs/aa/one", make(DATA))
        assert transport.get("packs/aa/one") == DATA

    def test_a_buffer_may_be_used_again_after_the_put(self, transport: Transport) -> None:
        buffer = bytearray(DATA)
        transport.put("packs/aa/one", memoryview(buffer))
        buffer[:] = bytes(100)
        assert transport.get("packs/aa/one") == DATA

    def test_got_bytes_are_bytes(self, transport: Transport) -> None:
        transport.put("packs/aa/one", bytearray(DATA))
        assert type(transport.get("packs/aa/one")) is bytes

    @pytest.mark.parametrize(
        ("start", "end"),
        [(0, 10), (10, 20), (90, None), (0, None), (0, 1000), (100, 200), (500, 600), (5, 5), (7, 3)],
    )
    def test_a_range_is_a_slice(self, transport: Transport, start: int, end: int | None) -> None:
        transport.put("packs/aa/one", DATA)
        assert transport.get("packs/aa/one", start, end) == DATA[start:end]

    @pytest.mark.parametrize(("start", "end"), [(-10, None), (-1, None), (-100, None), (-1000, None), (-10, 95)])
    def test_a_negative_start_counts_from_the_end(self, transport: Transport, start: int, end: int | None) -> None:
        transport.put("packs/aa/one", DATA)
        assert transport.get("packs/aa/one", start, end) == DATA[start:end]

    def test_a_key_that_is_not_there_is_an_error_that_names_it(self, transport: Transport) -> None:
        with pytest.raises(KeyNotFoundError) as caught:
            transport.get("packs/aa/one")
        assert str(caught.value) == "packs/aa/one is not in the store"
        assert caught.value.key == "packs/aa/one"

    def test_a_key_is_not_a_folder(self, transport: Transport) -> None:
        transport.put("packs/aa/one", DATA)
        for key in ("packs", "packs/aa", "packs/aa/one/more"):
            with pytest.raises(KeyNotFoundError):
                transport.get(key)
            with pytest.raises(KeyNotFoundError):
                transport.get(key, 0, 0)

    # -- write-once

    def test_the_same_bytes_can_be_put_again(self, transport: Transport) -> None:
        transport.put("packs/aa/one", DATA)
        before = list(transport.list("packs/"))
        transport.put("packs/aa/one", DATA)
        assert transport.get("packs/aa/one") == DATA
        assert list(transport.list("packs/")) == before

    @pytest.mark.parametrize("torn", [b"", DATA[:50], DATA + b"x", bytes(100)])
    def test_a_torn_write_is_replaced(self, transport: Transport, torn: bytes) -> None:
        transport.put("packs/aa/one", torn)
        transport.put("packs/aa/one", DATA)
        assert transport.get("packs/aa/one") == DATA

    def test_a_heartbeat_replaces_the_one_before(self, transport: Transport) -> None:
        transport.put("beats/a", b"1", replace=True)
        transport.put("beats/a", b"2", replace=True)
        transport.put("beats/a", b"2", replace=True)
        assert transport.get("beats/a") == b"2"

    # -- list

    def test_a_listing_has_every_key_with_the_prefix_and_its_size(self, transport: Transport) -> None:
        for key, size in (("refs/aa/x~1", 1), ("refs/aa/x~2", 2), ("refs/ab/y", 3), ("packs/aa/x", 4), ("refs2", 5)):
            transport.put(key, bytes(size))

        def listed(prefix: str) -> dict[str, int | None]:
            found = list(transport.list(prefix))
            assert len({info.key for info in found}) == len(found)
            return {info.key: info.size for info in found}

        assert listed("refs/") == {"refs/aa/x~1": 1, "refs/aa/x~2": 2, "refs/ab/y": 3}
        assert listed("refs") == listed("refs/") | {"refs2": 5}
        assert listed("refs/aa/") == listed("refs/aa/x~") == {"refs/aa/x~1": 1, "refs/aa/x~2": 2}
        assert listed("refs/aa/x~2") == {"refs/aa/x~2": 2}
        assert listed("refs/a") == listed("refs/")
        assert listed("") == listed("refs") | {"packs/aa/x": 4}

    @pytest.mark.parametrize("prefix", ["", "refs/", "refs/aa/", "nothing", "a/b/c/d"])
    def test_a_listing_of_nothing_is_empty(self, transport: Transport, prefix: str) -> None:
        assert list(transport.list(prefix)) == []

    @pytest.mark.parametrize("prefix", ["", "lo", "local", "local/", "local/t", "local/tmp/"])
    def test_what_is_of_this_machine_only_is_never_listed(self, transport: Transport, prefix: str) -> None:
        transport.put("local/tmp/one", b"1")
        transport.put("locals", b"2")
        assert {info.key for info in transport.list(prefix)} == ({"locals"} if "locals".startswith(prefix) else set())

    def test_a_key_put_while_listing_does_no_harm(self, transport: Transport) -> None:
        for number in range(5):
            transport.put(f"refs/aa/{number}", b"")
        found: set[str] = set()
        for info in transport.list("refs/"):
            transport.put(f"refs/aa/more{len(found)}", b"")
            found.add(info.key)
        assert found >= {f"refs/aa/{number}" for number in range(5)}

    # -- delete and probe

    def test_deleted_keys_are_gone_and_others_stay(self, transport: Transport) -> None:
        for name in ("a", "b", "c"):
            transport.put(f"packs/aa/{name}", b"x")
        assert list(transport.delete(["packs/aa/a", "packs/aa/c", "packs/aa/none", "none", "packs/aa/b/none"])) == []
        assert [info.key for info in transport.list("")] == ["packs/aa/b"]
        with pytest.raises(KeyNotFoundError):
            transport.get("packs/aa/a")

    def test_a_listing_can_be_deleted_as_it_goes(self, transport: Transport) -> None:
        for name in ("a", "b", "c"):
            transport.put(f"probe/{name}", b"x")
        assert list(transport.delete(info.key for info in transport.list("probe/"))) == []
        assert list(transport.list("")) == []

    def test_a_deleted_key_can_be_put_again(self, transport: Transport) -> None:
        transport.put("packs/aa/a", b"x")
        transport.delete(["packs/aa/a"])
        transport.put("packs/aa/a", b"y")
        assert transport.get("packs/aa/a") == b"y"

    def test_a_probe_leaves_nothing(self, transport: Transport) -> None:
        assert transport.probe() >= 0
        assert list(transport.list("")) == []

    def test_time_does_not_go_back(self, transport: Transport) -> None:
        before = transport.probe()
        transport.put("ctl/a", b"")
        (info,) = transport.list("ctl/")
        assert info.time_ns is not None
        assert before <= info.time_ns <= transport.probe()

    # -- keys and threads

    @pytest.mark.parametrize("key", INVALID_KEYS)
    def test_a_key_that_some_storage_cannot_hold_is_refused(self, transport: Transport, key: str) -> None:
        for use in (
            lambda: transport.put(key, b""),
            lambda: transport.get(key),
            lambda: transport.delete([key]),
            lambda: validate_key(key),
        ):
            with pytest.raises(InvalidInputError) as caught:
                use()
            assert str(caught.value) == f"not a storage key: {key!r}"
        assert list(transport.list("")) == []

    @pytest.mark.parametrize("key", ["a", "a/b/c", "refs/" + "a" * 255, "a~b-c_d.e", "...", ".a", "0"])
    def test_other_keys_can_be_held(self, transport: Transport, key: str) -> None:
        transport.put(key, b"x")
        assert [info.key for info in transport.list("")] == [key]
        assert transport.get(key) == b"x"

    def test_threads_may_put_the_same_key_at_once(self, transport: Transport) -> None:
        failures: list[BaseException] = []
        start = threading.Barrier(8)

        def put() -> None:
            try:
                start.wait()
                for number in range(10):
                    transport.put(f"packs/aa/{number}", DATA * (number + 1))
                    assert transport.get(f"packs/aa/{number}") == DATA * (number + 1)
            except BaseException as exc:  # noqa: BLE001
                failures.append(exc)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(list(transport.list("packs/"))) == 10
