"""Encryption at rest: everything a person, a model or a tool wrote, and every key."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from bf_plugin import events
from bf_plugin.errors import ConfigurationError, JournalError


class Unreadable(JournalError):
    """What is stored cannot be read with the keys at hand."""


class Vault:
    """Seals JSON-able values with the first of its Fernet keys, opens what any of them sealed."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigurationError(
                "BF_SECRET_KEY: not a Fernet key (32 url-safe base64 bytes); make one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
            ) from None

    def seal(self, value: Any) -> bytes:
        """Return `value`, anything JSON-able, as a token. Lone surrogates are replaced: models write them."""
        try:
            clear = msgspec.msgpack.encode(value)
        except (UnicodeEncodeError, OverflowError):
            clear = msgspec.msgpack.encode(events.well_formed_tree(msgspec.to_builtins(value)))
        return self._fernet.encrypt(clear)

    def open(self, token: bytes | None) -> Any:
        """Return what `token` holds, None for None. Raises JournalError when no key fits."""
        if token is None:
            return None
        try:
            clear = self._fernet.decrypt(bytes(token))
        except InvalidToken:
            raise Unreadable(
                "the journal was written with another secret key: add the old one behind the new one in BF_SECRET_KEY"
            ) from None
        return msgspec.msgpack.decode(clear)


def key_beside(database: Path) -> str:
    """Return the key in `<database>.key`, made on first use, readable by its owner only.

    Raises JournalError when the file cannot be made or read.
    """
    path = database.with_name(database.name + ".key")
    try:
        if not path.exists():
            _make_key(path)
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise JournalError(
            f"cannot make or read {path}: {error.strerror}; free space on its disk, let this user write there, "
            "or set BF_SECRET_KEY"
        ) from None


def _make_key(path: Path) -> None:
    """Make the file. Several processes may boot together: it is written whole under another name and linked, which only
    one of them wins.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
        with contextlib.suppress(FileExistsError):  # a sibling was first: its key counts
            os.link(draft, path)
    finally:
        draft.unlink()
