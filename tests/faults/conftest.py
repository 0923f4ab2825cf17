"""A server that comes with pip, for all tests here, and credentials that it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import moto


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto.running(tmp_path_factory.mktemp("moto")) as port:
        yield port
