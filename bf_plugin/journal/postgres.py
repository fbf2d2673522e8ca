"""The journal on a Postgres server: its engines, and how processes hear of each other's signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.journal.fence import CHANNEL
from bf_plugin.journal.writer import Writer

READERS = 10
"""Connections one process may read with, beside one to write, one to listen and those of its job worker."""

_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "bf_plugin",
}
"""libpq: a server whose host vanished is noticed within seconds."""

_WRITER = ("idle_in_transaction_session_timeout = '2s'", "lock_timeout = '5s'")
"""A process that is frozen in mid-transaction must not keep its rows from the process that takes over."""


class PostgresServer:
    """Where the database is. `conninfo` is for libpq and holds the password: not for logs."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def __str__(self) -> str:
        """Return host and database, without user and password."""
        hosts = self.url.query.get("host", ())
        host = self.url.host or (hosts if isinstance(hosts, str) else ",".join(hosts)) or "the default host"
        return f"{self.url.database or 'the default database'} at {host}"

    def listen(self) -> Listener:
        """Return a listener for signals."""
        return Listener(self.conninfo)

    def keys(self, given: Sequence[str], *, create: bool = False) -> Sequence[str]:
        """Return the secret keys. Raises ConfigurationError where none is given: no process may make one by itself."""
        if not given:
            raise ConfigurationError(
                "BF_SECRET_KEY: needed with postgresql://, the same for all processes; make one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
            )
        return given

    def engines(self) -> tuple[Engine, Engine]:
        """Return an engine for the writer and one for readers. Raises ConfigurationError when the extra is missing."""
        pool = {"pool_size": 2, "max_overflow": READERS - 2, "pool_timeout": 10}
        return self.tables_engine(), _engine(self.url, isolation_level="AUTOCOMMIT", **pool)

    def tables_engine(self) -> Engine:
        """Return an engine for changes of the tables, which is as the writer's."""
        engine = _engine(self.url, pool_size=1, max_overflow=0)

        @event.listens_for(engine, "connect")
        def _connected(connection: Any, _: Any) -> None:
            for setting in _WRITER:
                connection.execute(f"SET {setting}")
            connection.commit()

        return engine

    def visiting_engine(self, timeout: float) -> Engine:
        """Return an engine that leaves the database as it is until it writes; its timeout is the writer's."""
        return self.tables_engine()

    def writer(self, engine: Engine) -> Writer:
        """Return what commits: what goes over a network is not for the event loop."""
        return Writer(engine)

    def close(self) -> None:
        """Nothing is kept open here."""


class Listener:
    """One connection that waits for signals, used by one thread. It connects again by itself."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: Any = None

    def wait(self, seconds: float) -> set[str]:
        """Wait for signals; return whom they are for, nobody after `seconds`. The empty name stands for everybody.

        A new connection returns that at once, since signals may have been missed. Raises JournalError when the server
        cannot be reached.
        """
        import psycopg

        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._conninfo, autocommit=True, **_CONNECT)
                self._connection.execute(f"LISTEN {CHANNEL}")
                return {""}
            return {signal.payload for signal in self._connection.notifies(timeout=seconds, stop_after=1)}
        except psycopg.Error as error:
            self.close()
            raise JournalError(f"no signals from the database: {_first_line(error)}") from None

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _engine(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), connect_args=_CONNECT, **options)
    except ImportError:
        raise ConfigurationError("BF_DATABASE_URL: postgresql:// needs pip install 'bf_plugin[postgres]'") from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
