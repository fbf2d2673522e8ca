"""`bf-plugin doctor`: journals in SQLite and the keys beside them."""

from __future__ import annotations

import os
import pwd
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from bf_plugin.journal import open_journal
from bf_plugin.testing.deployment import Deployment
from examinations import SECRET, examine

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def journal(deploy: Callable[..., Deployment], tmp_path: Path) -> dict[str, str]:
    """The environment of a deployment with a journal that something is stored in."""
    deployed = deploy(secret_key=SECRET)
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))
    deployed.application.close()
    return {"BF_DATABASE_URL": f"sqlite:///{tmp_path / 'journal.db'}", "BF_SECRET_KEY": SECRET}


def test_the_journal_opens(journal: dict[str, str], tmp_path: Path) -> None:
    """It can be written, has our tables, and the key opens it; afterwards every file is as it was."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    report = examine(**journal)

    assert report.failures == []
    assert len(report.of("database", "ok")) == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_another_secret_key(journal: dict[str, str]) -> None:
    """A key that opens nothing of what is stored is found, before a conversation is lost."""
    report = examine(**{**journal, "BF_SECRET_KEY": Fernet.generate_key().decode()})

    assert "add the old one behind the new one in BF_SECRET_KEY" in report.failure("database")


def test_the_old_key_was_taken_away_too_early(journal: dict[str, str], tmp_path: Path) -> None:
    """What is new opens with the new key; what is old does not any more."""
    new = Fernet.generate_key().decode()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        (token,) = connection.execute("SELECT item_sealed FROM bf_items ORDER BY id DESC LIMIT 1").fetchone()
        again = Fernet(new).encrypt(Fernet(SECRET).decrypt(token))
        connection.execute("UPDATE bf_items SET item_sealed = ? WHERE id = (SELECT max(id) FROM bf_items)", [again])
        connection.execute("DELETE FROM bf_runs")
    connection.close()

    assert examine(**{**journal, "BF_SECRET_KEY": f"{new},{SECRET}"}).failures == []
    assert "another secret key" in examine(**{**journal, "BF_SECRET_KEY": new}).failure("database")


def test_no_secret_key(journal: dict[str, str], tmp_path: Path) -> None:
    """A value that is no Fernet key is said to be none; the tables are looked at all the same."""
    report = examine(**{**journal, "BF_SECRET_KEY": "hunter2"})

    assert "BF_SECRET_KEY: not a Fernet key" in report.failure("database")
    assert any("its tables have version" in text for text in report.of("database", "ok"))


def test_the_key_file_is_gone(tmp_path: Path) -> None:
    """The next start would make another key and lose all threads; the doctor makes none."""
    open_journal(f"sqlite:///{tmp_path / 'bf.db'}").close()
    (tmp_path / "bf.db.key").unlink()

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'bf.db'}")

    assert "bring it back from a backup" in report.failure("database")
    assert not (tmp_path / "bf.db.key").exists()


def test_everybody_can_read_the_key(tmp_path: Path) -> None:
    """A key that is not private is found, with the command that makes it so."""
    open_journal(f"sqlite:///{tmp_path / 'bf.db'}").close()
    (tmp_path / "bf.db.key").chmod(0o644)

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'bf.db'}")

    assert report.failure("database").endswith(f"-> chmod 600 {tmp_path / 'bf.db.key'}")
    assert report.of("database", "skipped") == ["whether the secret key opens what is stored: nothing is"]


@pytest.mark.parametrize(("version", "said"), [(99, "a newer release made them"), (0, "the change log says")])
def test_tables_of_another_release(journal: dict[str, str], tmp_path: Path, version: int, said: str) -> None:
    """Older or newer, the message says what to do."""
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("UPDATE bf_schema SET version = ?", [version])
    connection.close()

    assert said in examine(**journal).failure("database")


def test_another_programs_file(tmp_path: Path) -> None:
    """What is no database is said to be none."""
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100, encoding="utf-8")

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'letter.txt'}", BF_SECRET_KEY=SECRET)

    assert "another program's file lies there: correct BF_DATABASE_URL" in report.failure("database")


def test_a_folder_that_cannot_be_made() -> None:
    """Where no file can be made there will be no journal."""
    assert "/proc cannot be written by this user" in examine(BF_DATABASE_URL="sqlite:////proc/no/bf.db").failure(
        "database"
    )


def test_a_folder_without_file_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network filesystem: it is said where to go."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("bf_plugin.dispatch.owner.fcntl.lockf", refuse)

    assert "does not take file locks (No locks available): put BF_DATABASE_URL on a local disk" in examine().failure(
        "database"
    )


def test_somebody_else_holds_the_database(
    journal: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that keeps a write transaction open is waited for no longer than the doctor's patience."""
    monkeypatch.setattr("bf_plugin.journal.survey.TIMEOUT", 0.05)
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    report = examine(**journal)

    other.close()
    assert "end that program" in report.failure("database")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and become somebody else")
def test_another_users_files() -> None:
    """Whoever may not use a file is told whose it is; the superuser is told that his access says nothing."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, which nobody else may enter
        folder, environ = Path(name), {"BF_DATABASE_URL": f"sqlite:///{name}/bf.db"}
        folder.chmod(0o755)
        open_journal(environ["BF_DATABASE_URL"]).close()
        (folder / "bf.db.d").mkdir(mode=0o700)
        theirs = subprocess.run(
            [sys.executable, "-c", _AS_SOMEBODY_ELSE, str(nobody.pw_uid)],
            env={**os.environ, **environ},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        os.chown(folder / "bf.db", nobody.pw_uid, nobody.pw_gid)
        mine = examine(**environ)

    assert theirs.returncode == 1, theirs.stderr
    for file in ("bf.db", "bf.db.key", "bf.db.d"):
        assert f"FAIL     database   {folder / file} cannot be used by this user" in theirs.stdout
    assert "(it is root's)" in theirs.stdout
    assert f"{folder} cannot be written by this user: Permission denied" in theirs.stdout
    assert "readonly database; make the file and its folder writable" in theirs.stdout
    assert mine.failures == []
    assert any("run this as nobody" in text for text in mine.of("database", "skipped"))


_AS_SOMEBODY_ELSE = """
import os, sys
from bf_plugin.cli import main
main(["plugins"], standalone_mode=False)  # so that everything is loaded: they may not enter our folders
from bf_plugin.cli.doctor import doctor
os.setuid(int(sys.argv.pop()))
doctor([])
"""
