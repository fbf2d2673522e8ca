"""The FileMaker Data API: sessions, and scripts run in them.

After the Claris FileMaker Data API Guide (help.claris.com/en/data-api-guide). A session is a token that a login gives
and 15 minutes without a call end; then calls are refused with 401 and code 952, and nothing was run.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import requests
from requests.auth import HTTPBasicAuth

from bf_hook_filemaker import codes, settings
from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure, Remedy
from bf_hook_filemaker.pool import Pool
from bf_hook_filemaker.web import Answer, Header, Web

_INVALID_TOKEN = 952
_NOTHING_FOUND = 401
_REFUSED = (210, 211, 212, 214)
_PAUSE = 60.0
"""Seconds between attempts to log in with what was refused: a server locks accounts after a few."""

_LOGOUT = 1.0
_LONGEST_SAID = 2000


class _Ended(Exception):
    """The session is over; the call did nothing."""


class DataApi:
    """One database with one account; each of its sessions does one call at a time."""

    def __init__(self, connection: settings.DataApi, *, max_bytes: int) -> None:
        self._web = Web(ca_file=connection.ca_file, max_bytes=max_bytes)
        self._auth = HTTPBasicAuth(connection.account.encode(), connection.secret().encode())
        self._secret = connection.secret()
        self._base = f"{connection.url}/fmi/data/vLatest/databases/{quote(connection.database, safe='')}"
        self._max_url = connection.max_url
        self._refused: tuple[float, int] | None = None
        self._silent = False
        self._pool: Pool[_Session] = Pool(connection.concurrency, lambda: _Session(self))

    def call(self, tool: settings.Tool, parameter: dict[str, Any], deadline: Deadline) -> str:
        """Run the tool's script with `parameter` as JSON text; return its result, "" where it has none.

        Raises Failure.
        """
        with self._pool.lend(deadline) as session:
            response = session.run(tool, _json(parameter), deadline)
        said = _text(response.get("scriptResult"))
        code = _code(response.get("scriptError"))
        if code:
            raise codes.failure(code, self._concealed(said))
        return said

    def names(self, what: str, deadline: Deadline) -> set[str]:
        """Return the names of the database's `scripts` or `layouts` that the account sees. Raises Failure."""
        with self._pool.lend(deadline) as session:
            response = session.ask("GET", f"{self._base}/{what}", deadline, harmless=True)
        return set(_names(response.get(what)))

    def close(self) -> None:
        """Log out of all sessions: of those in use when their calls are over."""
        self._pool.close()

    def log_in(self, http: requests.Session, deadline: Deadline) -> str:
        """Return the token of a new session. Raises Failure."""
        if self._refused is not None and time.monotonic() < self._refused[0]:
            raise codes.failure(self._refused[1])
        answer = self._web.send(
            http, "POST", f"{self._base}/sessions", deadline, auth=self._auth, body={}, harmless=True
        )
        try:
            response = self.response(answer, harmless=True)
        except _Ended:
            raise self._refusal(212) from None
        if not (token := answer.token or _text(response.get("token"))):
            raise _not_the_data_api(answer, harmless=True)
        return token

    def log_out(self, http: requests.Session, token: str) -> None:
        """End a session, when everything closes. If a server does not answer, its sessions end by themselves."""
        if self._silent:
            return
        try:
            url = f"{self._base}/sessions/{quote(token, safe='')}"
            self._web.send(http, "DELETE", url, Deadline(_LOGOUT), harmless=True)
        except Failure:
            self._silent = True

    def send(
        self,
        http: requests.Session,
        token: str,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        body: object = None,
        harmless: bool = False,
    ) -> dict[str, Any]:
        """Make a call in a session. Raises Failure, and _Ended when there is no such session any more."""
        auth = Header("Authorization", f"Bearer {token}")
        answer = self._web.send(http, method, url, deadline, auth=auth, body=body, harmless=harmless)
        return self.response(answer, harmless=harmless)

    def request_of(self, tool: settings.Tool, parameter: str) -> tuple[str, str, dict[str, Any] | None]:
        """Return method, address and body that run a script: alone, or with a search that has room for a parameter."""
        layout = f"{self._base}/layouts/{quote(tool.layout or '', safe='')}"
        if tool.find is not None:
            body = {"query": [tool.find], "limit": "1", "script": tool.script, "script.param": parameter}
            return "POST", f"{layout}/_find", body
        url = f"{layout}/script/{quote(tool.script or '', safe='')}?{urlencode({'script.param': parameter})}"
        if len(url) > self._max_url:
            raise Failure(
                f"it was not called, the arguments are too long: {len(url)} characters in an address of at most "
                f"{self._max_url}",
                Remedy.ARGUMENTS,
                advice="give the tool a `find`, so that its arguments travel in a body",
            )
        return "GET", url, None

    def response(self, answer: Answer, *, harmless: bool) -> dict[str, Any]:
        """Return the `response` of an answer whose code is 0. Raises Failure, and _Ended for a token that is over."""
        value = answer.json()
        messages = value.get("messages") if isinstance(value, dict) else None
        first = messages[0] if isinstance(messages, list) and messages else None
        code = _code(first.get("code")) if isinstance(first, dict) else None
        if code == _INVALID_TOKEN or (answer.status == 401 and code is None):
            raise _Ended
        if code is None or not isinstance(first, dict):
            raise _not_the_data_api(answer, harmless=harmless)
        if code in _REFUSED:
            raise self._refusal(code)
        if code:
            known = code in codes.CODES
            raise codes.failure(code, "" if known else self._concealed(_text(first.get("message"))))
        response = value.get("response")
        return response if isinstance(response, dict) else {}

    def _refusal(self, code: int) -> Failure:
        self._refused = (time.monotonic() + _PAUSE, code)
        return codes.failure(code)

    def _concealed(self, text: str) -> str:
        return text.replace(self._secret, "[redacted]")[:_LONGEST_SAID]


class _Session:
    """A place for one session: with its own connection to the server, and a token once it was used."""

    def __init__(self, api: DataApi) -> None:
        self._api = api
        self._http: requests.Session | None = None
        self._token: str | None = None

    def run(self, tool: settings.Tool, parameter: str, deadline: Deadline) -> dict[str, Any]:
        """Run a script; see `ask`."""
        method, url, body = self._api.request_of(tool, parameter)
        try:
            return self.ask(method, url, deadline, body=body)
        except Failure as failure:
            if tool.find is not None and failure.code == _NOTHING_FOUND:
                raise Failure(
                    "the script was not run, the search that carries it found no record",
                    Remedy.OPERATOR,
                    advice="`find` must find a record on the tool's layout, always",
                ) from None
            raise

    def ask(
        self, method: str, url: str, deadline: Deadline, *, body: object = None, harmless: bool = False
    ) -> dict[str, Any]:
        """Make a call, logging in before it where that is needed, and once more if the session has ended meanwhile.

        Raises Failure. A session whose call got no answer may still be at it, so it is left for the server to end.
        """
        if self._http is None:
            self._http = requests.Session()
        try:
            for _ in range(2):
                self._token = self._token or self._api.log_in(self._http, deadline)
                try:
                    return self._api.send(self._http, self._token, method, url, deadline, body=body, harmless=harmless)
                except _Ended:
                    self._token = None
            raise codes.failure(_INVALID_TOKEN)
        except Failure as failure:
            if failure.remedy is Remedy.UNKNOWN:
                self._token = None
                self._forget()
            raise

    def close(self) -> None:
        """Log out."""
        if self._http is not None and self._token is not None:
            self._api.log_out(self._http, self._token)
            self._token = None
        self._forget()

    def _forget(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


def _not_the_data_api(answer: Answer, *, harmless: bool) -> Failure:
    """Say that something else answered: the web server in front of an engine that is down, a proxy, another program."""
    harmless = harmless or 300 <= answer.status < 500
    return Failure(
        f"the server answered with HTTP status {answer.status} and not as the FileMaker Data API does",
        Remedy.OPERATOR if harmless else Remedy.UNKNOWN,
        advice="does the Data API run (Admin Console: Connectors), and is `url` the server's own address?",
    )


def _json(value: object) -> str:
    """Return JSON text without escapes, which take more room in an address; lone surrogates are replaced."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode()


def _code(value: object) -> int | None:
    """Return an error code, which comes as text."""
    try:
        return int(str(value))
    except ValueError:
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _names(entries: object) -> list[str]:
    """Return the names in a list of scripts or layouts, those in folders too."""
    names: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        if entry.get("isFolder"):
            names += _names(entry.get("folderScriptNames") or entry.get("folderLayoutNames"))
        else:
            names.append(str(entry.get("name")))
    return names
