"""A repository in a bucket where something is wrong: what is said, what to do, the exit code; and nothing is lost."""

from __future__ import annotations

import functools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.repository import MARKER_KEY
from replicate.transport.remote import Patience, RemoteTransport, remote_transport
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.faults.storm import refusal
from tests.projects import SampleProject
from tests.servers import moto
from tests.servers.process import HOST, free_port
from tests.servers.proxy import Fault, FaultProxy
from tests.sync.stores import contents, local, pull_from

ALWAYS = 1_000
CHECK_NETWORK = "hint: check the network and repeat; what is saved on this machine is safe\n"
MAKE_ONE = "hint: correct the place, or make a store there with `replicate push --create`\n"
LOG_IN = "hint: log in (`aws configure`, `aws sso login`), set AWS_PROFILE or `profile:`, or set `anonymous: true`\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto.running(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def proxy(port: int) -> Iterator[FaultProxy]:
    with FaultProxy(port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, caches of our own, and no patience."""
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    brief = functools.partial(Patience, attempts=2, first_wait=0.0, longest_wait=0.0, timeout=10.0)
    monkeypatch.setattr("replicate.transport.remote.Patience", brief)


class Bucket:
    """The project's repository: a folder of a bucket behind the proxy, and what it holds past the proxy."""

    def __init__(self, project: SampleProject, proxy: FaultProxy) -> None:
        self._project = project
        self.name = f"bad-{secrets.token_hex(6)}"
        self.url = f"s3://{self.name}/team"
        self.direct: RemoteTransport = remote_transport(self.url, {"endpoint": f"http://{HOST}:{proxy.upstream}"})
        self.configure(endpoint=f"http://{HOST}:{proxy.port}")

    def configure(self, **options: str) -> None:
        lines = [f"{name}: {value}" for name, value in {"repository": self.url, **options}.items()]
        self._project.write("replicate.yaml", "\n".join(["durability: fast", *lines, ""]))

    def empty(self) -> None:
        self.direct.delete([info.key for info in self.direct.list("")])


@pytest.fixture
def bucket(vision: Vision, proxy: FaultProxy) -> Bucket:
    return Bucket(vision.project, proxy)


@pytest.fixture
def filled(shell: Shell, bucket: Bucket) -> Bucket:
    """A bucket with everything that the project has."""
    assert shell("push", "--create").code == 0
    return bucket


def check_completes(shell: Shell, vision: Vision, bucket: Bucket, tmp_path: Path) -> None:
    """Once it is mended a push copies what is lacking, and somebody else gets it."""
    assert shell("push").code == 0
    fresh = SampleProject(tmp_path / "fresh")
    assert pull_from(fresh, bucket.direct).left == 0
    assert contents(local(fresh)) == contents(local(vision.project))


@pytest.mark.parametrize("command", ["push", "pull", "ls", "doctor"])
def test_an_unknown_scheme(shell: Shell, vision: Vision, command: str) -> None:
    shell.fails(
        2,
        "error: unknown scheme 's4' in s4://bucket/team\nhint: use s3, gs, az, sftp, or the path of a folder\n",
        command,
        "-R",
        "s4://bucket/team",
    )


def test_a_bucket_that_is_not_there_is_made_when_asked(
    shell: Shell, vision: Vision, bucket: Bucket, tmp_path: Path
) -> None:
    message = f"error: there is no s3://{bucket.name}\nhint: correct the URL, or `replicate push --create` makes it\n"
    for command in ("push", "pull"):
        shell.fails(6, message, command)
    for command in ("ls", "fsck"):
        assert shell(command, "-R", bucket.url).code == 6
    assert shell("doctor").code == 6
    assert shell("push", "--create").err.startswith(f"made a store at {bucket.url}\npushed 2 experiments")
    check_completes(shell, vision, bucket, tmp_path)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "GET",
            "no permission to list {url}/ctl/: AccessDenied: So it is.\nhint: ask for permission to list the bucket",
        ),
        ("PUT", "3 records could not be pushed; what was pushed stays\nhint: ask for permission to write objects"),
    ],
)
def test_no_permission_to_list_or_to_write(
    shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy, tmp_path: Path, method: str, message: str
) -> None:
    session = vision.project.begin(name="third")
    vision.project.save(session)
    denied = refusal(403, "AccessDenied")
    proxy.faults = [Fault(403, ALWAYS, method, denied.body)]
    result = shell("push")
    assert result.code == 6
    assert result.err.endswith(f"error: {message.format(url=filled.url)}\n")
    proxy.faults = []
    check_completes(shell, vision, filled, tmp_path)


def test_without_permission_to_delete_everything_can_be_pushed_and_doctor_tells(
    shell: Shell, vision: Vision, bucket: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    denied = refusal(403, "AccessDenied").body
    proxy.faults = [Fault(403, ALWAYS, method, denied) for method in ("POST", "DELETE")]
    assert shell("push", "--create").code == 0
    result = shell("doctor")
    assert (result.code, result.err) == (6, "1 thing is wrong\n")
    assert "cannot be deleted: no permission to delete" in result.out
    check_completes(shell, vision, bucket, tmp_path)


def test_a_wrong_region(shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy) -> None:
    malformed = refusal(400, "AuthorizationHeaderMalformed").body
    body = malformed.replace(b"</Error>", b"<Region>eu-west-1</Region></Error>")
    proxy.faults = [Fault(400, ALWAYS, body=body)]
    result = shell("push")
    assert result.code == 6
    assert result.err.endswith("hint: set `region: eu-west-1` in replicate.yaml\n")


def test_an_endpoint_where_nobody_listens(shell: Shell, vision: Vision, bucket: Bucket) -> None:
    bucket.configure(endpoint=f"http://{HOST}:{free_port()}")
    result = shell("show", "theirs")
    assert result.code == 3
    assert result.err.splitlines()[-1].startswith(
        f"hint: only this machine's store was searched: cannot list {bucket.url}/ctl/: "
    )
    result = shell("push")
    assert result.code == 6
    assert result.err.startswith(f"error: cannot list {bucket.url}/ctl/: ")
    assert result.err.endswith(CHECK_NETWORK)
    assert shell("ls", "-R", bucket.url).code == 6


@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_who_presses_ctrl_c_does_not_wait_for_storage_that_hangs(
    shell: Shell, vision: Vision, bucket: Bucket, proxy: FaultProxy, tmp_path: Path, verb: str
) -> None:
    vision.project.write("large.bin", os.urandom(12 << 20))
    assert shell("checkpoint", "-q", "large.bin").code == 0
    command, stalled = ["push", "--create"], "/packs/"
    if verb == "GET":
        assert shell("push", "--create").code == 0
        command = ["checkout", "-R", bucket.url, "latest", "-o", str(tmp_path / "out")]
        stalled = max(bucket.direct.list("packs/"), key=lambda info: info.size or 0).key  # threads read it
    proxy.requests.clear()
    proxy.choose = lambda request: Fault("stall") if request.startswith(verb) and stalled in request else None
    process = subprocess.Popen(
        [sys.executable, "-m", "replicate", *command], cwd=vision.project.root, stderr=subprocess.PIPE, text=True
    )
    while not any(request.startswith(verb) and stalled in request for request in list(proxy.requests)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=45)  # a request alone has 60 s
    assert (process.returncode, told.splitlines()[-1]) == (130, "error: interrupted")


def test_storage_that_hangs_for_a_while_is_told_of(
    shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.transport.remote.transport._LONG_SECONDS", 0.1)
    brief = Patience(attempts=2, first_wait=0.0, longest_wait=0.0, timeout=2.0)
    monkeypatch.setattr("replicate.transport.remote.Patience", lambda **_: brief)
    waiting = f"waiting for {filled.url}: a request has taken 0 s so far\n"
    for flags, told in (((), waiting), (("-q",), "")):
        proxy.faults = [Fault("stall", 1, "GET")]
        result = shell("push", "--verify", *flags)
        assert (result.code, result.err.startswith(told), "waiting" in result.err) == (0, True, bool(told))


def test_an_endpoint_that_is_something_else(shell: Shell, vision: Vision, bucket: Bucket, proxy: FaultProxy) -> None:
    proxy.faults = [Fault(200, ALWAYS, body=b"<html>Welcome!</html>")]
    for arguments in (("push",), ("push", "--create"), ("pull",)):
        result = shell(*arguments)
        assert (result.code, result.raw) == (6, b"")
        assert result.err.endswith("hint: check `endpoint:`\n")


def test_no_credentials(
    shell: Shell, vision: Vision, filled: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as without:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            without.delenv(name)
        without.setenv("HOME", str(tmp_path))
        for command in ("push", "pull"):
            result = shell(command)
            assert result.code == 6
            assert result.err.startswith(f"error: cannot log in to {filled.url}: ")
            assert result.err.endswith(LOG_IN)
    check_completes(shell, vision, filled, tmp_path)


def test_credentials_that_expire_in_the_middle(
    shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    session = vision.project.begin(name="third")
    vision.project.save(session)
    expired = refusal(400, "ExpiredToken")
    puts = iter(range(ALWAYS))
    proxy.choose = lambda request: expired if request.startswith("PUT") and next(puts) else None
    result = shell("push", "-j", "1")
    assert result.code == 6
    assert f"warning: cannot log in to {filled.url}: ExpiredToken: So it is.\n" in result.err
    assert result.err.endswith(LOG_IN)
    proxy.choose = lambda request: None
    check_completes(shell, vision, filled, tmp_path)


def test_other_things_in_the_place(shell: Shell, vision: Vision, bucket: Bucket) -> None:
    bucket.direct.create()
    bucket.direct.put("data.csv", b"1")
    shell.fails(
        6,
        f"error: there is no store at {bucket.url}\n{MAKE_ONE}",
        "push",
    )
    shell.fails(
        4,
        f"error: {bucket.url} holds other things, such as data.csv: no store is made among them\n"
        f"hint: name an empty place, such as {bucket.url}/replicate\n",
        "push",
        "--create",
    )
    assert [info.key for info in bucket.direct.list("")] == ["data.csv"]


def test_a_newer_format(shell: Shell, vision: Vision, filled: Bucket) -> None:
    filled.direct.delete([MARKER_KEY])
    filled.direct.put("ctl/v2", b"")
    before = contents(filled.direct)
    vision.project.begin(name="third")
    for arguments in (("push",), ("push", "--create"), ("pull",), ("ls", "-R", filled.url)):
        shell.fails(
            7,
            f"error: {filled.url} has format 2; this version reads format 1\n"
            "hint: upgrade replicate: pip install --upgrade replicate-vc\n",
            *arguments,
        )
    assert contents(filled.direct) == before


def test_a_bucket_emptied_between_two_pushes(shell: Shell, vision: Vision, filled: Bucket, tmp_path: Path) -> None:
    filled.empty()
    shell.fails(
        6,
        f"error: there is no store at {filled.url}\n{MAKE_ONE}",
        "push",
    )
    told = shell("push", "--create").err
    assert f"warning: {filled.url} holds another store than before: everything there is looked at anew\n" in told
    assert "pushed 2 experiments, 4 checkpoints: " in told
    check_completes(shell, vision, filled, tmp_path)


@pytest.mark.parametrize("what", ["everything", "ctl"])
def test_a_bucket_emptied_while_it_is_pushed_to(
    shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy, tmp_path: Path, what: str
) -> None:
    session = vision.project.begin(name="third")
    vision.project.save(session)
    is_first = iter([True])

    def choose(request: str) -> None:
        if request.startswith("PUT") and next(is_first, False):
            keys = [info.key for info in filled.direct.list("" if what == "everything" else "ctl/")]
            filled.direct.delete(keys)

    filled.direct.put(f"beats/{session.experiment_id.hex()}~{session.session_id}", b"", replace=True)
    proxy.choose = choose
    shell.fails(
        6,
        f"error: {filled.url} was emptied or replaced meanwhile: what was copied there may be gone\n"
        "hint: if that was meant, repeat: everything there is looked at anew\n",
        "push",
    )
    assert shell("push").code == 6
    assert shell("push", "--create").code == 0
    check_completes(shell, vision, filled, tmp_path)


def test_a_clock_that_is_years_off(
    shell: Shell, vision: Vision, filled: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.faults = [Fault(403, ALWAYS, body=refusal(403, "RequestTimeTooSkewed").body)]
    for command in ("push", "pull"):
        shell.fails(
            6,
            f"error: cannot list {filled.url}/ctl/: RequestTimeTooSkewed: So it is.\nhint: set this machine's clock\n",
            command,
        )
    proxy.faults = []
    check_completes(shell, vision, filled, tmp_path)


def test_a_key_that_marks_no_store(shell: Shell, vision: Vision, bucket: Bucket) -> None:
    bucket.direct.create()
    bucket.direct.put(MARKER_KEY, b"something else, and longer than a marker")
    result = shell("push", "--create")
    assert result.code in (5, 7)
