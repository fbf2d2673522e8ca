"""Whether the journal in an SQLite file, and what lies beside it, can be used by this user."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bf_plugin.dispatch.owner import Owner
from bf_plugin.doctor.finding import Finding, failed, ok, skipped
from bf_plugin.doctor.tables import check_tables
from bf_plugin.errors import BFError
from bf_plugin.journal.sqlite import SqliteFile, try_folder

_USE = os.R_OK | os.W_OK


def check_sqlite(database: SqliteFile, secret_keys: Sequence[str]) -> Iterator[Finding]:
    """Look at the folder, then at the file if there is one."""
    try:
        there = database.path.exists()
        yield from _folder(database)
    except OSError as error:
        yield failed("database", f"cannot look at {database.path}: {error.strerror}", "see who may enter its folders")
        return
    if not there:
        yield skipped(
            "database",
            f"there is no journal yet at {database.path}: the first start makes it. If there should be one, run this "
            "in the gateway's directory, with its --app or --name",
        )
        return
    yield from _files(database)
    yield from _content(database, secret_keys)


def _folder(database: SqliteFile) -> Iterator[Finding]:
    """Try locks and a small database where ours are, or will be made."""
    folder = next(parent for parent in database.path.parents if parent.is_dir())
    try:
        try_folder(folder)
        with tempfile.TemporaryDirectory(prefix=".bf-doctor-", dir=folder) as name:
            Owner(Path(name)).release()
    except BFError as error:
        yield failed("database", str(error))
    else:
        yield ok("database", f"{folder} can be written, and takes locks and shared memory")


def _files(database: SqliteFile) -> Iterator[Finding]:
    """See who may use the files. The superuser may use all, which says nothing about the gateway's user."""
    path = database.path
    owner = path.stat().st_uid
    needed = {path: _USE, path.with_name(path.name + "-wal"): _USE, path.with_name(path.name + "-shm"): _USE}
    needed |= {database.key_file: os.R_OK, database.lock_folder: _USE | os.X_OK}
    for file, use in needed.items():
        if file.exists() and not os.access(file, use):
            advice = f"run this as the gateway's user, or give it the file: chown, chmod (it is {_name(owner)}'s)"
            yield failed("database", f"{file} cannot be used by this user", advice)
    if os.geteuid() == 0 and owner != 0:
        yield skipped("database", f"whether the files' owner may use them: run this as {_name(owner)} to see")
    if database.key_file.exists() and stat.S_IMODE(database.key_file.stat().st_mode) & stat.S_IROTH:
        yield failed("database", f"{database.key_file} can be read by everybody", f"chmod 600 {database.key_file}")


def _content(database: SqliteFile, secret_keys: Sequence[str]) -> Iterator[Finding]:
    keys = list(secret_keys)
    if not keys and not database.key_file.exists():
        yield failed(
            "database",
            f"{database.key_file} is missing, and BF_SECRET_KEY is not set: what is stored cannot be read",
            "bring it back from a backup; without it the next start makes a new one, and old threads are lost",
        )
    elif not keys and os.access(database.key_file, os.R_OK):
        keys = [database.key_file.read_text(encoding="ascii", errors="replace").strip()]
    yield from check_tables(database, keys)[1]


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
