"""Servers that come with pip, one of each for all tests here, and nobody's credentials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import fake_gcs, moto

_OTHERS = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "STORAGE_EMULATOR_HOST", "FSSPEC_CONFIG_DIR")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials that no real storage knows."""
    for name in _OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto.running(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture(scope="session")
def gcs_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with fake_gcs.running(tmp_path_factory.mktemp("gcs")) as port:
        yield port
