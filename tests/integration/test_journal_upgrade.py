"""Journals of earlier releases, brought up to date: those in tests/data/journal, and with steps made up for a test."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from bf_plugin import PluginContext, RunDraft, hookimpl
from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.journal import open_journal
from bf_plugin.journal.migrations import STEPS, VERSION, Step, bring_up_to_date, version_of
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.store import database_of
from bf_plugin.journal.tables import metadata
from bf_plugin.testing.deployment import PROVIDER_KEY, Deployment
from bf_plugin.testing.engine import ScriptedEngine

DATA = Path(__file__).parents[1] / "data" / "journal"
WEATHER = {"type": "function", "function": {"name": "getWeather", "parameters": {"type": "object", "properties": {}}}}
KEY = "Zm9yIHRoZSBmaXh0dXJlcyBvZiB0aGUgam91cm5hbCE="

TABLES = {1: "2a85939142793a0a"}
"""Digests of the tables of each version."""


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of database."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database that is empty."""
    if kind == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'journal.db'}"


def tables_engine_of(url: str) -> Engine:
    return database_of(url).tables_engine()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Return what changes the tables of that database."""
    engine = tables_engine_of(url)
    yield engine
    engine.dispose()


def load(url: str, version: int) -> dict[str, Any]:
    """Fill a database with what a killed server left; return its starts by name. All times are moved to just now."""
    database = database_of(url)
    kind = "postgresql" if isinstance(database, PostgresServer) else "sqlite"
    comment, dump = (DATA / f"v{version}.{kind}.sql").read_text(encoding="utf-8").split("\n", 1)
    about = json.loads(comment.removeprefix("-- "))
    if isinstance(database, SqliteFile):
        with sqlite3.connect(database.path) as connection:
            connection.executescript(dump)
        connection.close()
    else:
        with psycopg.connect(url) as session:
            session.execute(dump.encode())
    later = time.time() - about["written_at"]
    engine = tables_engine_of(url)
    with engine.begin() as changed:
        for table in inspect(changed).get_table_names():
            for column in inspect(changed).get_columns(table):
                if (name := column["name"]).endswith("_at") or name == "deadline":
                    changed.execute(text(f"UPDATE {table} SET {name} = {name} + {later}"))
    engine.dispose()
    runs: dict[str, Any] = about["runs"]
    return runs


def shape(connection: Connection) -> dict[str, Any]:
    """Return what a database says of its tables."""
    look = inspect(connection)

    def of(table: str) -> dict[str, Any]:
        columns = {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in look.get_columns(table)}
        return {
            "columns": columns,
            "key": look.get_pk_constraint(table)["constrained_columns"],
            "parents": sorted((f["constrained_columns"], str(f["options"])) for f in look.get_foreign_keys(table)),
            "unique": sorted(u["column_names"] for u in look.get_unique_constraints(table)),
            "indexes": sorted(
                (str(i["name"]), i["column_names"], bool(i["unique"]), sorted(i.get("dialect_options", ())))
                for i in look.get_indexes(table)
            ),
        }

    return {table: of(table) for table in look.get_table_names()}


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


# -- the journals of earlier releases


class Counter:
    """The plugin whose values are in the journals."""

    def __init__(self, context: PluginContext) -> None:
        self._store = context.store

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        run.metadata["count"] = f"{self._store.increment('runs')} {self._store.get('note')}"


def counter(context: PluginContext) -> Counter:
    return Counter(context)


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_what_an_earlier_release_left_goes_on(url: str, version: int, tmp_path: Path) -> None:
    """Threads, a page's answer, runs cut off and queued, values of plugins and idempotency keys: all of it is there."""
    left = load(url, version)
    engine = ScriptedEngine(*["So it goes"] * 5)
    engine.responses[left["active"]["response"]] = ["once upon ", "a time"]
    settings: dict[str, Any] = {"database_url": url, "secret_key": KEY, "thread_busy": "enqueue"}
    with Deployment(folder=tmp_path, engine=engine, plugins=[counter], **settings) as deployed:
        deployed.application.start()

        assert finish_reasons(deployed, left["active"], left["queued"]) == ["stop", "stop"]
        assert deployed.text(left["active"]).strip("\0") == "a time"  # what came before the crash was accepted
        deployed.gateway.wait_for(lambda: len(deployed.gateway.events(type="end")) == 3, timeout=60)
        answer = deployed.post("/tool-response", {"toolCallId": left["asking"]["toolCallId"], "success": True})
        assert answer.json()["status"] == "accepted"
        assert finish_reasons(deployed, left["asking"]) == ["stop"]

        thread = left["first"]["threadId"]
        body = deployed.body("How is the weather?", thread_id=thread, tools=[WEATHER])
        again = deployed.post("", body, headers={"Idempotency-Key": "weather"})
        assert again.json()["runId"] == left["tool"]["runId"]

        went_on = deployed.start("What was my name?", thread_id=thread)
        told_all = deployed.start("Say it again", thread_id=thread, apiKey=f"{PROVIDER_KEY}-another")
        assert finish_reasons(deployed, went_on, told_all) == ["stop", "stop"]
        assert engine.requests[-2].state == {"response_id": "resp_3"}
        assert engine.requests[-1].state is None
        items = json.dumps(engine.requests[-1].new)
        for said in ("My name is Ada", "Hello Ada", "it rains", "It rains, Ada", "What was my name?", "So it goes"):
            assert said in items
        assert engine.requests[-1].metadata["count"] == "10 {'by': 'a plugin'}"


def finish_reasons(deployed: Deployment, *runs: dict[str, Any]) -> list[str]:
    """Wait for the ends of runs."""
    return [deployed.events(run, timeout=60)[-1]["finish_reason"] for run in runs]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_an_upgraded_journal_has_the_tables_of_a_new_one(url: str, version: int) -> None:
    """The steps and the tables in the code say the same. Where this fails, a change of the tables has no step."""
    load(url, version)
    open_journal(url, [KEY]).close()
    upgraded = tables_engine_of(url)
    with upgraded.connect() as connection:
        found, number = shape(connection), version_of(connection)
        empty(connection)
    open_journal(url, [KEY]).close()
    with upgraded.connect() as connection:
        assert found == shape(connection)
    upgraded.dispose()
    assert number == VERSION


def empty(connection: Connection) -> None:
    """Remove all tables."""
    for table in reversed(inspect(connection).get_sorted_table_and_fkc_names()):
        if table[0] is not None:
            connection.execute(text(f"DROP TABLE {table[0]}"))
    connection.commit()


def test_changed_tables_have_a_new_version() -> None:
    """Who changes `tables.py` adds a step to `migrations.py`, and here the digest of the tables of its version.

    Then write a database of that version with tests/data/journal/write.py.
    """
    dialects = (sqlite.dialect(), postgresql.dialect())  # type: ignore[no-untyped-call]
    made = [
        str(cast("Any", change).compile(dialect=dialect))
        for dialect in dialects
        for table in metadata.sorted_tables
        for change in (CreateTable(table), *(CreateIndex(i) for i in sorted(table.indexes, key=lambda i: str(i.name))))
    ]
    digest = hashlib.sha256("".join("".join(made).split()).encode()).hexdigest()[:16]
    assert {**TABLES, VERSION: digest} == TABLES
    assert sorted(TABLES) == list(range(1, VERSION + 1))
    assert {path.name for path in DATA.glob("v*.sql")} == {
        f"v{version}.{kind}.sql" for version in TABLES for kind in ("sqlite", "postgresql")
    }


# -- steps made up for a test


def step(connection: Connection) -> None:
    connection.execute(text("INSERT INTO bf_made VALUES (1)"))


MADE: list[Step] = [*STEPS, "CREATE TABLE bf_made (n INTEGER)", step]


def version_in(engine: Engine) -> int | None:
    with engine.connect() as connection:
        return version_of(connection)


def test_steps_are_taken_once(engine: Engine) -> None:
    """Each in its turn, and none again at the next start; a new database is of the newest version at once."""
    bring_up_to_date(engine, create=True)
    assert version_in(engine) == VERSION

    bring_up_to_date(engine, create=False, steps=MADE)
    bring_up_to_date(engine, create=False, steps=MADE)

    assert version_in(engine) == VERSION + 2
    assert rows(engine, "SELECT n FROM bf_made") == [(1,)]


def test_processes_that_start_together_take_turns(url: str, engine: Engine) -> None:
    """Each step is taken by one of them, and all go on with the newest tables."""
    bring_up_to_date(engine, create=True)
    engines = [tables_engine_of(url) for _ in range(6)]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: bring_up_to_date(one, create=True, steps=MADE), engines))

    assert version_in(engine) == VERSION + 2
    assert rows(engine, "SELECT n FROM bf_made") == [(1,)]
    for one in engines:
        one.dispose()


DIES = """
import os, sys
from sqlalchemy import text
sys.path[:0] = [{here!r}]
from test_journal_upgrade import MADE, tables_engine_of
from bf_plugin.journal.migrations import bring_up_to_date

def die(connection):
    connection.execute(text("INSERT INTO bf_made VALUES (2)"))
    os._exit(9)

bring_up_to_date(tables_engine_of({url!r}), create=True, steps=[*MADE, die])
"""


def test_a_process_that_dies_in_a_step_leaves_the_version_before(url: str, engine: Engine) -> None:
    """What the step did is undone, what came before it stays; the next start takes it again."""
    bring_up_to_date(engine, create=True)
    program = DIES.format(here=str(Path(__file__).parent), url=url)

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9

    assert version_in(engine) == VERSION + 2
    bring_up_to_date(engine, create=True, steps=[*MADE, step])
    assert version_in(engine) == VERSION + 3
    assert rows(engine, "SELECT n FROM bf_made") == [(1,), (1,)]


def test_a_step_that_fails_leaves_the_version_before(engine: Engine) -> None:
    """Its error is raised, and what it did is undone."""

    def fails(connection: Connection) -> None:
        step(connection)
        raise JournalError("cannot")

    bring_up_to_date(engine, create=True)
    with pytest.raises(JournalError, match="cannot"):
        bring_up_to_date(engine, create=True, steps=[*MADE, fails])

    assert version_in(engine) == VERSION + 2
    assert rows(engine, "SELECT n FROM bf_made") == [(1,)]


@pytest.mark.parametrize(("version", "said"), [(VERSION + 1, "a newer release made them"), (0, "the change log says")])
def test_tables_that_no_step_leads_from_are_refused(url: str, engine: Engine, version: int, said: str) -> None:
    """The message says what to do, and nothing is touched."""
    bring_up_to_date(engine, create=True)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE bf_schema SET version = {version}"))

    with pytest.raises(ConfigurationError, match=said):
        open_journal(url, [KEY])

    assert version_in(engine) == version


def test_a_table_that_is_built_anew_keeps_what_refers_to_it(tmp_path: Path) -> None:
    """SQLite only: dropping a table would delete by its foreign keys; rows without their parent are an error."""
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    left = load(url, 1)
    engine = tables_engine_of(url)
    count = rows(engine, "SELECT count(*) FROM bf_messages")

    def anew(connection: Connection) -> None:
        for change in (
            "CREATE TABLE new_runs AS SELECT * FROM bf_runs",
            "DROP TABLE bf_runs",
            "ALTER TABLE new_runs RENAME TO bf_runs",
            "CREATE UNIQUE INDEX bf_runs_id ON bf_runs (id)",
        ):
            connection.execute(text(change))

    def orphans(connection: Connection) -> None:
        connection.execute(text("DELETE FROM bf_runs WHERE id = :id"), {"id": left["first"]["runId"]})

    bring_up_to_date(engine, create=False, steps=[*STEPS, anew])
    assert rows(engine, "SELECT count(*) FROM bf_messages") == count
    with pytest.raises(JournalError, match="without their parent"):
        bring_up_to_date(engine, create=False, steps=[*STEPS, anew, orphans])
    assert version_in(engine) == VERSION + 1
    engine.dispose()
