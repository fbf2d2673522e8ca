"""Whether the journal on a Postgres server can be used, and lets processes hear of each other in time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

from bf_plugin.doctor.finding import Finding, failed, ok
from bf_plugin.doctor.tables import check_tables
from bf_plugin.errors import BFError, ConfigurationError
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.survey import hears_signals
from bf_plugin.settings import Settings


def check_postgres(server: PostgresServer, settings: Settings) -> Iterator[Finding]:
    """Look at the extra, the connection, the tables, the queue, the signals and the heartbeat, in this order."""
    try:
        from bf_plugin.dispatch.postgres import install
    except ImportError as error:
        advice = "pip install 'bf_plugin[postgres]'"
        yield failed("database", f"postgresql:// needs libraries that are not there: {error}", advice)
        return
    keys = settings.names("secret_key")
    try:
        server.keys(keys)
    except ConfigurationError as error:
        yield failed("database", str(error))
    trip, found = check_tables(server, keys)
    yield from found
    if trip is not None:
        yield from _queue(lambda: install(server.conninfo, keep=False))
        yield from _signals(server)
        yield heartbeat(trip, settings)


def heartbeat(trip: float, settings: Settings) -> Finding:
    """Compare the heartbeat with the seconds a round trip takes: a beat is a transaction of several."""
    beat, timeout = settings.heartbeat, settings.heartbeat_timeout
    text = f"a heartbeat every {beat:g} s, timeout after {timeout:g} s; a round trip takes {1000 * trip:.1f} ms"
    if 10 * trip <= beat:
        return ok("database", text)
    advice = (
        f"bring the server nearer, or set BF_HEARTBEAT to {10 * trip:.1f} at least and BF_HEARTBEAT_TIMEOUT to three "
        "times that, the same for all processes: living ones lose their runs otherwise"
    )
    return failed("database", text, advice)


def _queue(install: Callable[[], None]) -> Iterator[Finding]:
    try:
        install()
    except BFError as error:
        yield failed("database", str(error))
    else:
        yield ok("database", "the queue of runs is there, or can be made")


def _signals(server: PostgresServer) -> Iterator[Finding]:
    try:
        heard = hears_signals(server, f"doctor-{secrets.token_hex(8)}")
    except BFError as error:
        yield failed("database", str(error))
        return
    if heard:
        yield ok("database", "signals between processes arrive")
    else:
        advice = "let PgBouncer pool sessions, not transactions, or go round it: stops take up to a second otherwise"
        yield failed("database", "signals between processes do not arrive", advice)
