"""Storage elsewhere and processes: threads, forks, interrupts, the end."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import subprocess
import sys
import threading

import pytest

from replicate.transport.remote import loop, remote_transport


def test_a_forked_child_opens_a_connection_of_its_own(moto_port: int) -> None:
    transport = remote_transport(f"s3://forks/{secrets.token_hex(8)}", {"endpoint": f"http://127.0.0.1:{moto_port}"})
    transport.create()
    transport.put("packs/aa/one", b"1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            transport.put("packs/aa/two", transport.get("packs/aa/one") + b"2")
            code = 0
        finally:
            os._exit(code)
    transport.put("packs/aa/three", b"3")
    assert os.waitpid(child, 0)[1] == 0
    assert transport.get("packs/aa/two") == b"12"
    assert len(list(transport.list("packs/"))) == 3


def test_a_fork_while_other_threads_are_at_work_hangs_nobody(moto_port: int) -> None:
    transport = remote_transport(f"s3://forks/{secrets.token_hex(8)}", {"endpoint": f"http://127.0.0.1:{moto_port}"})
    transport.create()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            transport.put("packs/aa/one", b"1")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if list(transport.list("none/")) == [] else 2
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_interrupt_ends_a_wait_and_the_request() -> None:
    begun, cancelled = threading.Event(), threading.Event()
    main = threading.main_thread().ident or 0

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupt() -> None:
        begun.wait()
        while sys._current_frames()[main].f_code.co_name != "wait":
            pass  # until it waits for the result
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(wait())
    assert cancelled.wait(10)


def test_a_call_that_blocks_for_ever_keeps_nobody_from_ending() -> None:
    script = """
import asyncio, threading
from replicate.transport.remote import loop
async def brief():
    async with asyncio.timeout(0.01):
        await loop.in_thread(threading.Event().wait)
try:
    loop.run(brief())
except TimeoutError:
    print("given up")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("given up\n", "")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_process_ends_without_a_word_of_what_is_open(scheme: str, moto_port: int, gcs_port: int) -> None:
    port = {"s3": moto_port, "gs": gcs_port}[scheme]
    options = {"endpoint": f"http://127.0.0.1:{port}"} | ({"anonymous": "true"} if scheme == "gs" else {})
    script = f"""
from replicate.transport.remote import remote_transport
transport = remote_transport("{scheme}://ends/{secrets.token_hex(8)}", {options!r})
transport.create()
transport.put("ctl/v1", b"1")
print(transport.get("ctl/v1"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("b'1'\n", "", 0)


def test_a_transport_that_was_closed_opens_again(moto_port: int) -> None:
    transport = remote_transport(f"s3://forks/{secrets.token_hex(8)}", {"endpoint": f"http://127.0.0.1:{moto_port}"})
    transport.create()
    transport.close()
    transport.put("ctl/v1", b"1")
    transport.close()
    transport.close()
    assert transport.get("ctl/v1") == b"1"


def test_two_transports_see_what_the_other_did_at_once(moto_port: int) -> None:
    place, endpoint = f"s3://views/{secrets.token_hex(8)}", {"endpoint": f"http://127.0.0.1:{moto_port}"}
    one, other = remote_transport(place, endpoint), remote_transport(place, endpoint)
    one.create()
    assert list(other.list("refs/")) == []
    one.put("refs/aa/x", b"1")
    assert [info.key for info in other.list("refs/")] == ["refs/aa/x"]
    one.delete(["refs/aa/x"])
    assert list(other.list("refs/")) == []


@pytest.mark.parametrize(("error", "is_logged"), [(ConnectionResetError, False), (ValueError, True)])
def test_a_lost_connection_that_nobody_waits_for_is_not_logged(
    caplog: pytest.LogCaptureFixture, error: type[Exception], is_logged: bool
) -> None:
    async def fail() -> None:
        raise error("Cannot write to closing transport")

    async def leave_behind() -> None:
        await asyncio.wait([asyncio.ensure_future(fail())])

    loop.run(leave_behind())
    gc.collect()
    assert ("never retrieved" in caplog.text) == is_logged
