"""A long past for a journal: one run that ended, many times over.

Copies cost a minute where as many real runs take an hour. They are what the journal sees of ended runs: rows of
every table, as large as the real ones; nobody reads what is sealed in them, which only opens under the first one's id.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, create_engine, insert, make_url, select

from bf_plugin.journal.tables import items, messages, runs, steps, threads

_AT_ONCE = 500


def multiply(database_url: str, run_id: str, numbers: range) -> None:
    """Add copies of an ended run, one for each number, each on a thread of its own."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url, connect_args={"timeout": 60} if url.get_backend_name() == "sqlite" else {})
    try:
        with engine.connect() as connection:
            original = _read(connection, run_id)
        for first in range(0, len(numbers), _AT_ONCE):
            few = numbers[first : first + _AT_ONCE]
            with engine.begin() as connection:  # short, so that others come to write
                for table, rows in original.items():
                    connection.execute(insert(table), [_copy(row, number) for number in few for row in rows])
    finally:
        engine.dispose()


def _read(connection: Connection, run_id: str) -> dict[Table, list[dict[str, Any]]]:
    run = connection.execute(select(runs).where(runs.c.id == run_id)).mappings().one()
    of_run = {table: table.c.run_id == run_id for table in (items, messages, steps)}
    wanted = {threads: threads.c.id == run["thread_id"], runs: runs.c.id == run_id, **of_run}
    return {
        table: [dict(row) for row in connection.execute(select(table).where(condition)).mappings()]
        for table, condition in wanted.items()
    }


def _copy(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row of the copy with this number: its thread and its run are named after it."""
    if "item_sealed" in row:
        row = {name: value for name, value in row.items() if name != "id"}
    named: dict[str, Any] = {name: f"{row[name][:40]}-{number}" for name in ("thread_id", "run_id") if name in row}
    if "created_by" in row or "spec_sealed" in row:
        named["id"] = f"{row['id'][:40]}-{number}"
    return {**row, **named}
