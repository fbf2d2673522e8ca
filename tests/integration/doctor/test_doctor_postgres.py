"""`bf-plugin doctor`: journals in Postgres."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable

import psycopg
import pytest
from cryptography.fernet import Fernet

from bf_plugin.journal import open_journal
from bf_plugin.testing.deployment import Deployment
from examinations import SECRET, Report, examine

pytestmark = pytest.mark.usefixtures("alone")


def postgres(url: str, **environ: str) -> Report:
    return examine(**{"BF_DATABASE_URL": url, "BF_SECRET_KEY": SECRET, **environ})


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        query = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'public' OR schemaname LIKE 'bf_%'"
        return {f"{schema}.{name}" for schema, name in connection.execute(query)}


def test_an_empty_postgres_database(postgres_url: str) -> None:
    """Everything that the first start does is tried, and undone: nothing is left behind."""
    report = postgres(postgres_url)

    assert report.failures == []
    said = " ".join(report.of("database", "ok"))
    for text in ("has no journal yet", "queue of runs", "signals between processes arrive", "a heartbeat every 1 s"):
        assert text in said
    assert tables(postgres_url) == set()


def test_a_used_postgres_database(postgres_url: str, deploy: Callable[..., Deployment]) -> None:
    """Beside processes that use it, whose tables and jobs stay as they are; a wrong key is found."""
    deployed = deploy(database_url=postgres_url, secret_key=SECRET)
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))
    before = tables(postgres_url)

    report = postgres(postgres_url)
    wrong = postgres(postgres_url, BF_SECRET_KEY=Fernet.generate_key().decode())

    assert report.failures == []
    assert "the secret key opens what is stored" in report.of("database", "ok")
    assert "another secret key" in wrong.failure("database")
    assert tables(postgres_url) == before


def test_postgres_cannot_be_used(postgres_url: str) -> None:
    """No secret key, no server, no database: each with its remedy."""
    assert "BF_SECRET_KEY: needed with postgresql://" in postgres(postgres_url, BF_SECRET_KEY="").failure("database")
    refused = postgres("postgresql://someone:hunter2@127.0.0.1:1/db")
    assert "see that the server runs" in refused.failure("database")
    missing = postgres(postgres_url.replace("/bf_", "/no_"))
    assert "create it, or correct BF_DATABASE_URL" in missing.failure("database")


def test_postgres_tables_of_another_release(postgres_url: str) -> None:
    """A newer release's tables are found."""
    open_journal(postgres_url, [SECRET]).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE bf_schema SET version = 99")

    assert "a newer release made them" in postgres(postgres_url).failure("database")


def test_a_postgres_user_without_rights(postgres_url: str) -> None:
    """Who may not make tables, or a schema for the queue, is told what to grant."""
    name = f"user_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        connection.execute(b"REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        theirs = postgres_url.replace("postgres:@", f"{name}:@")
        assert theirs != postgres_url

        assert "grant its user the right to create and write tables" in postgres(theirs).failure("database")
        connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}".encode())
        assert "grant CREATE on the database" in postgres(theirs).failure("database")
        connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {name}".encode())
        assert postgres(theirs).failures == []


def test_the_extra_is_missing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what to install."""
    for module in [name for name in sys.modules if name.startswith("bf_plugin.dispatch.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    monkeypatch.delattr("bf_plugin.dispatch.postgres", raising=False)

    assert "pip install 'bf_plugin[postgres]'" in postgres(postgres_url).failure("database")


def test_signals_get_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pool of transactions, where who listens is not who waits."""
    monkeypatch.setattr("bf_plugin.journal.postgres.CHANNEL", "another_session")
    monkeypatch.setattr("bf_plugin.journal.survey.TIMEOUT", 0.2)

    assert "let PgBouncer pool sessions" in postgres(postgres_url).failure("database")
