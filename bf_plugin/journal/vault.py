"""Encryption at rest: everything a person, a model or a tool wrote, and every key.

Values are Fernet tokens. Messages, of which there are thousands a second, are sealed with AES-GCM instead, which costs
an eighth: under a key of their run's own, derived from the Fernet key (HKDF, RFC 5869), so that random nonces never
come near their limit (NIST SP 800-38D, 8.3), and bound to their place in the run, so that rows cannot change places.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.runtime.text import well_formed_tree

_NONCE = 12
_OTHER_KEY = "the journal was written with another secret key: add the old one behind the new one in BF_SECRET_KEY"


class Unreadable(JournalError):
    """What is stored cannot be read with the keys at hand."""


class Vault:
    """Seals JSON-able values with the first of its Fernet keys, opens what any of them sealed."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
            self._keys = [urlsafe_b64decode(key) for key in keys]
        except ValueError:
            raise ConfigurationError(
                "BF_SECRET_KEY: not a Fernet key (32 url-safe base64 bytes); make one with "
                "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
            ) from None

    def seal(self, value: Any) -> bytes:
        """Return `value`, anything JSON-able, as a token. Lone surrogates are replaced: models write them."""
        return self._fernet.encrypt(_packed(value))

    def open(self, token: bytes | None) -> Any:
        """Return what `token` holds, None for None. Raises JournalError when no key fits."""
        if token is None:
            return None
        try:
            clear = self._fernet.decrypt(bytes(token))
        except InvalidToken:
            raise Unreadable(_OTHER_KEY) from None
        return msgspec.msgpack.decode(clear)

    def box(self, run_id: str) -> Box:
        """Return what seals and opens the messages of one run."""
        return Box(AESGCM(_derived(key, run_id)) for key in self._keys)


class Box:
    """Seals the messages of one run, each bound to its number."""

    def __init__(self, ciphers: Iterable[AESGCM]) -> None:
        self._first, *self._others = ciphers

    def seal(self, value: Any, number: int) -> bytes:
        """Return `value`, anything JSON-able, sealed."""
        nonce = os.urandom(_NONCE)
        return nonce + self._first.encrypt(nonce, _packed(value), b"%d" % number)

    def open(self, sealed: bytes, number: int) -> Any:
        """Return what was sealed under this number. Raises JournalError when no key fits."""
        nonce, rest, bound = sealed[:_NONCE], sealed[_NONCE:], b"%d" % number
        for cipher in (self._first, *self._others):
            with contextlib.suppress(InvalidTag):
                return msgspec.msgpack.decode(cipher.decrypt(nonce, rest, bound))
        raise Unreadable(_OTHER_KEY)


def _packed(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return msgspec.msgpack.encode(well_formed_tree(msgspec.to_builtins(value)))


def _derived(key: bytes, run_id: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"bf_plugin messages of " + run_id.encode()).derive(key)


def key_in(path: Path) -> str:
    """Return the key in a file beside the database, made on first use, readable by its owner only.

    Raises JournalError when the file cannot be made or read.
    """
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
