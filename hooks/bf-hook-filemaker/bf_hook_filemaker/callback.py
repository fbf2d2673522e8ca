"""An app's own endpoint: a tool call is posted to it, and what it answers is the result.

Made for the "API Callback Endpoint" of BetterForms (docs.fmbetterforms.com/reference/hooksoverview/callback): `/api*`
of an app runs a hook in FileMaker, which sees header and body of the request and sets answer, type and status.
"""

from __future__ import annotations

from typing import Any

import requests

from bf_hook_filemaker import settings
from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure, Remedy
from bf_hook_filemaker.pool import Pool
from bf_hook_filemaker.web import Answer, Header, Web

_LONGEST_SAID = 2000
_LATER = (408, 425, 429, 502, 503, 504)


class Callback:
    """One endpoint with one key."""

    def __init__(self, connection: settings.Callback, *, max_bytes: int) -> None:
        self._web = Web(ca_file=connection.ca_file, max_bytes=max_bytes)
        self._url = connection.url
        self._key = connection.secret()
        self._auth = Header(connection.key_header, self._key)
        self._pool: Pool[requests.Session] = Pool(connection.concurrency, requests.Session)

    def call(self, tool: settings.Tool, parameter: dict[str, Any], deadline: Deadline) -> str:
        """Post the call and return the text of the answer. Raises Failure."""
        headers = {"Idempotency-Key": str(parameter["idempotencyKey"])}
        with self._pool.lend(deadline) as session:
            answer = self._web.send(
                session, "POST", self._url, deadline, auth=self._auth, body=parameter, headers=headers
            )
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        return answer.text()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _refusal(self, answer: Answer) -> Failure:
        status = answer.status
        if status in (401, 403):
            return Failure(
                "the app refused the call", Remedy.OPERATOR, advice="compare `key` with what the app expects"
            )
        if status < 400 or status in (404, 405):
            return Failure(
                f"the app has no such endpoint (HTTP status {status})", Remedy.OPERATOR, advice="correct `url`"
            )
        said = self._said(answer)
        if status in _LATER:
            # A gateway in front may say so while the script runs.
            return Failure(f"the app could not answer now (HTTP status {status})", Remedy.UNKNOWN, said=said)
        remedy = Remedy.UNKNOWN if status >= 500 else Remedy.ARGUMENTS
        return Failure(f"the app answered with HTTP status {status}", remedy, said=said)

    def _said(self, answer: Answer) -> str:
        """Return what an error answer says: its `message` or `error` in JSON, else its text, but no page of HTML."""
        value = answer.json()
        if isinstance(value, dict):
            value = value.get("message") or value.get("error")
        elif value is None:
            value = answer.text()
        text = value.strip() if isinstance(value, str) else ""
        return "" if text.startswith("<") else text.replace(self._key, "[redacted]")[:_LONGEST_SAID]
