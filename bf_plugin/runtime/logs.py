"""Logging that carries run and request ids and no secret.

All rooms log through `get_logger(...)`. It hands final text to `logging`: arguments are formatted in and tracebacks
written out before redaction, so that no handler of any gateway can see a raw value. Only `configure()` changes anything
global; the command line calls it, in processes of our own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Literal
from urllib.parse import quote

GONE = "[redacted]"

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Named values first: they may have any shape. A quoted value ends at its quote, a bare one at the next delimiter.
    (
        re.compile(
            r"""(?ix)( (?:api|secret|provider)[_-]?key s? | authorization | thread[_-]?id | toolCallId )
            (\\?["']? \s* [:=] \s*)
            ( \\"(?:(?!\\").)*\\" | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'
            | (?:bearer|basic)\s+[^\s,;'"]+ | [^\s,;&)}\]"']+ )"""
        ),
        rf"\1\2{GONE}",
    ),
    (re.compile(r"(?i)\b(bearer)\s+[^\s,;'\"]+"), rf"\1 {GONE}"),
    # With `*`: providers quote keys with their middle starred out, and a part of a key is a secret too.
    (re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_*.-]+"), GONE),
    (re.compile(r"BFAPI_[A-Za-z0-9_*-]+"), GONE),
    # A digit or a capital tells an id from a name such as thread_busy.
    (re.compile(r"\b(?:thread|tool)_(?=[a-z_-]*[A-Z0-9])[A-Za-z0-9_-]{4,}"), GONE),
    # Fernet keys: 32 bytes in url-safe base64.
    (re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}=(?![A-Za-z0-9_=-])"), GONE),
    # User and password in a URL, such as a database's.
    (re.compile(r"://[^/\s@'\"]+@"), f"://{GONE}@"),
)
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets`, in any form that `conceal` knows, and without whatever looks like one."""
    text = conceal(text, secrets)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def conceal(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without `secrets`, also as JSON, repr or a URL write them; what only looks like one stays."""
    for form in sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, GONE)
    return text


def _forms(secret: str) -> set[str]:
    if not secret:
        return set()
    quoted = quote(secret, safe="", errors="replace")
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1], quoted}


def in_short(error: BaseException) -> str:
    """Return an error's kind, first line and place: enough to find it, and none of the values it may quote below."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """Return where an error was raised, as ` (file.py:1)`; nothing where that is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def request_id(header: str | None) -> str:
    """Return the caller's `X-Request-ID` if it can be echoed and logged as it is, else a new one."""
    if header and _REQUEST_ID.fullmatch(header) and redact(header) == header:
        return header
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class RunLogger:
    """A logger bound to ids, and to the secrets that it must not show.

    Its records have `run_id`, `request_id` and `text`, the message without the ids, for structured handlers. Their
    message ends with the ids, so that every format shows them.
    """

    logger: logging.Logger
    run_id: str | None = None
    request_id: str | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def bind(
        self, *, run_id: str | None = None, request_id: str | None = None, secrets: Iterable[str | None] = ()
    ) -> RunLogger:
        """Return a logger with these ids, and with these secrets too (it skips None and empty ones)."""
        return RunLogger(
            self.logger,
            run_id or self.run_id,
            request_id or self.request_id,
            self.secrets | {secret for secret in secrets if secret},
        )

    def debug(self, message: str, *args: object) -> None:
        """Log for those who look into the plugin itself."""
        self.log(logging.DEBUG, message, *args)

    def info(self, message: str, *args: object) -> None:
        """Log what an operator may want to know."""
        self.log(logging.INFO, message, *args)

    def warning(self, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log what an operator should know; `error` adds its traceback."""
        self.log(logging.WARNING, message, *args, error=error)

    def error(self, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log what an operator must act on; `error` adds its traceback."""
        self.log(logging.ERROR, message, *args, error=error)

    def exception(self, message: str, *args: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self.log(logging.ERROR, message, *args, error=sys.exc_info()[1])

    def log(self, level: int, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log `message % args`, redacted and on one line, and the traceback of `error`, redacted."""
        if not self.logger.isEnabledFor(level):
            return
        text = self._clean(message % args if args else message).translate(_CONTROL)
        caller = _caller()
        record = self.logger.makeRecord(
            self.logger.name,
            level,
            caller.f_code.co_filename,
            caller.f_lineno,
            text + self._ids(),
            (),
            None,
            caller.f_code.co_name,
            {"run_id": self.run_id, "request_id": self.request_id, "text": text},
        )
        if error is not None:
            # Formatters take a ready exc_text where there is no exc_info, which would give them the raw exception.
            record.exc_text = self._clean("".join(traceback.format_exception(error)).rstrip("\n"))
        self.logger.handle(record)

    def _clean(self, text: str) -> str:
        return redact(text, self.secrets).encode("utf-8", "backslashreplace").decode()

    def _ids(self) -> str:
        ids = [f"{name}={value}" for name, value in (("run", self.run_id), ("request", self.request_id)) if value]
        return f" [{' '.join(ids)}]" if ids else ""


def get_logger(name: str, *, secrets: Iterable[str | None] = ()) -> RunLogger:
    """Return the logger of a module (`__name__`), knowing no ids yet."""
    return RunLogger(logging.getLogger(name)).bind(secrets=secrets)


def _caller() -> FrameType:
    """Return the frame that called the logger; `logging`'s own search would find this module instead."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return frame


class TextFormatter(logging.Formatter):
    """One line a record, redacted: records of other libraries pass here too."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted line, followed by the traceback if there is one."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, redacted; `exception` holds a traceback as one string."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON text of one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(getattr(record, "text", None) or record.getMessage()),
        }
        line.update({name: value for name in ("run_id", "request_id") if (value := getattr(record, name, None))})
        exception = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        if exception:
            line["exception"] = redact(exception)
        return json.dumps(line)  # Not msgspec: it refuses lone surrogates, and a record must not be lost.


def configure(form: Literal["text", "json"] = "text", *, level: int = logging.INFO) -> None:
    """Send all of this process's logging to standard error; for the command line, never for a gateway's process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
