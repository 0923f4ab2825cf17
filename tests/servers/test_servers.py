"""The contract of a transport on real servers that come as Debian packages; `make test-servers` installs them."""

from __future__ import annotations

import getpass
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicate.errors import StorageDeniedError, StorageUnreachableError
from replicate.transport import Transport
from replicate.transport.remote import Patience, RemoteTransport, open_transport, remote_transport
from tests.servers.proxy import FaultProxy
from tests.transport.contract import TransportContract
from tests.transport.faults import FaultContract

pytestmark = pytest.mark.servers
AT_ONCE = Patience(attempts=2, first_wait=0.0, longest_wait=0.0)


def bucket(port: int, patience: Patience | None = None) -> RemoteTransport:
    """Return a folder of its own in a bucket that exists."""
    endpoint = {"endpoint": f"http://127.0.0.1:{port}"}
    transport = remote_transport(f"s3://servers/{secrets.token_hex(8)}", endpoint, patience=patience)
    transport.create()
    return transport


class TestCeph(TransportContract):
    @pytest.fixture
    def transport(self, gateway: int) -> Transport:
        return bucket(gateway)


class TestCephWithFaults(FaultContract):
    @pytest.fixture
    def proxy(self, gateway: int) -> Iterator[FaultProxy]:
        with FaultProxy(gateway) as proxy:
            yield proxy

    def make(self, proxy: FaultProxy, patience: Patience) -> RemoteTransport:
        return bucket(proxy.port, patience)


def test_ceph_lists_and_deletes_a_thousand_keys_in_one_request(gateway: int) -> None:
    with FaultProxy(gateway) as proxy:
        transport = bucket(proxy.port)
        for number in range(1_001):
            transport.put(f"refs/aa/{number:04}", b"")
        proxy.requests.clear()
        keys = [info.key for info in transport.list("refs/")]
        assert len(keys) == 1_001
        assert transport.delete(keys) == []
        assert proxy.methods == ["GET", "GET", "POST", "POST"]


def test_ceph_does_not_know_a_wrong_secret(gateway: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    transport = remote_transport("s3://servers/x", {"endpoint": f"http://127.0.0.1:{gateway}"})
    for use in (lambda: transport.get("ctl/v1"), lambda: transport.put("ctl/v1", b""), lambda: transport.create()):
        with pytest.raises(
            StorageDeniedError, match="cannot log in to s3://servers/x: SignatureDoesNotMatch"
        ) as caught:
            use()
        assert "wrong" not in str(caught.value)


def test_ceph_takes_a_pack_of_64_mebibytes_and_gives_its_end(gateway: int) -> None:
    transport = bucket(gateway)
    data = secrets.token_bytes(1 << 20) * 64
    transport.put("packs/aa/one", data)
    assert transport.get("packs/aa/one", -100) == data[-100:]
    assert transport.get("packs/aa/one") == data
    transport.put("packs/aa/one", data)


class TestSFTP(TransportContract):
    @pytest.fixture
    def transport(
        self, server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[RemoteTransport]:
        transport = served(server, tmp_path, monkeypatch)
        yield transport
        transport.close()


def served(server: tuple[int, Path], place: Path, patch: pytest.MonkeyPatch) -> RemoteTransport:
    """Return a transport on a folder of the server."""
    port, folder = server
    patch.setenv("HOME", str(folder / "home"))
    return remote_transport(f"sftp://{getpass.getuser()}@127.0.0.1:{port}{place}/store", patience=AT_ONCE)


def test_sftp_leaves_no_temporary_files_and_no_part_of_what_was_put(
    server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = served(server, tmp_path, monkeypatch)
    data = secrets.token_bytes(3 << 20)
    transport.put("packs/aa/one", data)
    assert transport.get("packs/aa/one") == data == (tmp_path / "store/packs/aa/one").read_bytes()
    assert transport.get("packs/aa/one", 1_000_001, 2_000_002) == data[1_000_001:2_000_002]
    assert list((tmp_path / "store/local/tmp").iterdir()) == []


def test_sftp_makes_a_folder_again_that_was_removed_under_it(
    server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = served(server, tmp_path, monkeypatch)
    transport.put("packs/aa/one", b"1")
    shutil.rmtree(tmp_path / "store")
    transport.put("packs/aa/two", b"2")
    assert [info.key for info in transport.list("")] == ["packs/aa/two"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda home: (home / "known_hosts").write_text(""), "not found in known_hosts"),
        (lambda home: (home / "id_ed25519").unlink(), "cannot log in to"),
    ],
)
def test_sftp_trusts_no_unknown_server_and_needs_a_key(
    server: tuple[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], object],
    message: str,
) -> None:
    transport = served(server, tmp_path, monkeypatch)
    shutil.copytree(server[1] / "home", tmp_path / "home")
    harm(tmp_path / "home" / ".ssh")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(StorageDeniedError, match=message) as caught:
        transport.get("ctl/v1")
    assert caught.value.hint is not None


def test_sftp_where_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    transport = open_transport(f"sftp://127.0.0.1:1{tmp_path}/store")
    assert isinstance(transport, RemoteTransport)
    transport._patience = AT_ONCE
    with pytest.raises(StorageUnreachableError):
        transport.get("ctl/v1")
