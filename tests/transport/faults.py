"""What a transport over HTTP does when the network does not: one suite, run by a subclass for each server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicate.errors import KeyNotFoundError, StorageUnreachableError
from replicate.transport import Transport
from replicate.transport.remote import Patience, RemoteTransport
from tests.servers.proxy import Fault, FaultProxy, What

DATA = bytes(range(256)) * 40
AT_ONCE = Patience(attempts=3, first_wait=0.0, longest_wait=0.0)
BRIEF = Patience(attempts=20, first_wait=0.0, longest_wait=0.0, timeout=0.5, slowest_rate=1 << 40)
ONCE = Patience(attempts=1, timeout=0.25, slowest_rate=1 << 40)
WHATS: tuple[What | int, ...] = (
    "lose the reply",
    "reset",
    "reset in the upload",
    "truncate",
    "truncate the head",
    500,
    502,
    503,
    504,
    429,
)
VERBS: dict[str, Callable[[Transport], object]] = {
    "put": lambda transport: transport.put("packs/aa/new", DATA),
    "get": lambda transport: transport.get("packs/aa/one"),
    "get a range": lambda transport: transport.get("packs/aa/one", 10, 5_000),
    "get an end": lambda transport: transport.get("packs/aa/one", -5_000),
    "list": lambda transport: sorted(info[:2] for info in transport.list("packs/")),
    "delete": lambda transport: transport.delete(["packs/aa/two", "packs/aa/three"]),
    "probe": lambda transport: transport.probe() > 0,
}


class FaultContract:
    """Subclass it with a fixture `proxy`, and `make(proxy, patience)` that gives a transport on an empty store."""

    def make(self, proxy: FaultProxy, patience: Patience) -> RemoteTransport:
        raise NotImplementedError

    def filled(self, proxy: FaultProxy, patience: Patience) -> RemoteTransport:
        """Return a transport whose store holds three keys and whose connection is open."""
        transport = self.make(proxy, patience)
        for name in ("one", "two", "three"):
            transport.put(f"packs/aa/{name}", DATA)
        proxy.requests.clear()
        return transport

    @pytest.mark.parametrize("what", WHATS)
    def test_what_passes_is_passed_over(self, proxy: FaultProxy, what: What | int) -> None:
        transport = self.filled(proxy, AT_ONCE)
        for verb, use in VERBS.items():
            expected = use(transport)
            proxy.faults = [Fault(what, times=2)]
            assert use(transport) == expected, verb
            assert proxy.faults[0].times == 0, verb

    def test_one_of_several_that_could_not_be_deleted_at_first_is_deleted(self, proxy: FaultProxy) -> None:
        transport = self.filled(proxy, AT_ONCE)
        seen: list[str] = []

        def fail_twice(request: str) -> Fault | None:
            seen.append(request)
            method, name = request.split(" ", 1)
            is_one = method != "DELETE" or name.endswith("two")  # several keys may be one request, a POST
            return Fault("reset") if is_one and seen.count(request) <= 2 else None

        proxy.choose = fail_twice
        assert transport.delete(["packs/aa/one", "packs/aa/two", "packs/aa/three"]) == []
        proxy.choose = lambda request: None
        assert list(transport.list("packs/")) == []

    @pytest.mark.parametrize("what", WHATS)
    def test_what_does_not_pass_is_an_error_that_says_so(self, proxy: FaultProxy, what: What | int) -> None:
        transport = self.filled(proxy, AT_ONCE)
        for verb, use in VERBS.items():
            if what == "truncate" and verb in ("put", "delete", "probe"):
                continue  # there is nothing in these answers that could be missing
            proxy.faults = [Fault(what, times=1_000)]
            with pytest.raises(StorageUnreachableError) as caught:
                use(transport)
            assert "(3 tries)" in caught.value.message
            assert caught.value.hint == "check the network and repeat; what is saved on this machine is safe"
            proxy.faults = []
            assert transport.get("packs/aa/one") == DATA  # the transport is as good as before

    def test_a_server_that_says_nothing_is_asked_again(self, proxy: FaultProxy) -> None:
        transport = self.filled(proxy, BRIEF)
        proxy.faults = [Fault("stall")]
        transport.put("packs/aa/new", DATA)
        proxy.faults = [Fault("stall")]
        assert transport.get("packs/aa/new") == DATA

    def test_a_server_that_goes_on_saying_nothing_is_not_waited_for(self, proxy: FaultProxy) -> None:
        transport = self.filled(proxy, AT_ONCE)
        transport._patience = ONCE
        for use in VERBS.values():
            proxy.faults = [Fault("stall", times=1_000)]
            with pytest.raises(StorageUnreachableError):
                use(transport)
        proxy.faults = []

    def test_a_put_whose_reply_was_lost_was_done_and_is_not_done_again(self, proxy: FaultProxy) -> None:
        transport = self.filled(proxy, AT_ONCE)
        proxy.faults = [Fault("lose the reply")]
        transport.put("packs/aa/new", DATA)
        (before,) = transport.list("packs/aa/new")
        transport.put("packs/aa/new", DATA)
        assert list(transport.list("packs/aa/new")) == [before]
        assert transport.get("packs/aa/new") == DATA

    def test_a_put_that_was_cut_off_leaves_nothing(self, proxy: FaultProxy) -> None:
        transport = self.filled(proxy, AT_ONCE)
        proxy.faults = [Fault("reset in the upload", times=1_000)]
        with pytest.raises(StorageUnreachableError):
            transport.put("packs/aa/new", bytes(1 << 20))
        proxy.faults = []
        with pytest.raises(KeyNotFoundError):
            transport.get("packs/aa/new")

    @pytest.mark.parametrize("asked", [(0, None), (0, 5_000), (100, 5_100), (-5_000, None), (5_000, 20_000)])
    def test_bytes_that_did_not_all_come_are_never_given_out(
        self, proxy: FaultProxy, asked: tuple[int, int | None]
    ) -> None:
        transport = self.filled(proxy, AT_ONCE)
        proxy.faults = [Fault("truncate")]
        assert transport.get("packs/aa/one", *asked) == DATA[slice(*asked)]
        proxy.faults = [Fault("truncate", times=1_000)]
        with pytest.raises(StorageUnreachableError):
            transport.get("packs/aa/one", *asked)
