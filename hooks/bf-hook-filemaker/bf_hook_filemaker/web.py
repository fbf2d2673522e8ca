"""One HTTP request within a deadline; what `requests` raises becomes a Failure without addresses and keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NewConnectionError

from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure, Remedy

_CHUNK = 16 * 1024


class Header(AuthBase):
    """Sets one header. As `auth`, since `requests` replaces a plain Authorization header by what `.netrc` says."""

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set it."""
        request.headers[self._name] = self._value
        return request


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: all of it."""

    status: int
    body: bytes
    token: str | None = None

    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body's value, None where it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class Web:
    """How one connection talks: whom it trusts, and how many bytes of an answer it reads."""

    def __init__(self, *, ca_file: Path | None, max_bytes: int) -> None:
        self._verify: str | bool = True if ca_file is None else str(ca_file)
        self._max_bytes = max_bytes

    def send(
        self,
        session: requests.Session,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        auth: AuthBase | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        harmless: bool = False,
    ) -> Answer:
        """Send a request and read its answer.

        A redirect is not followed, since it would carry the body elsewhere. `harmless` says that nothing has happened
        if no answer comes. Raises Failure.
        """
        if not (left := deadline.left()):
            raise Failure(f"no time was left of its {deadline.seconds:g} seconds to call it", Remedy.LATER)
        lost = Remedy.LATER if harmless else Remedy.UNKNOWN
        try:
            with session.request(
                method,
                url,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Accept": "application/json", "Content-Type": "application/json", **(headers or {})},
                auth=auth,
                timeout=left,
                stream=True,
                allow_redirects=False,
                verify=self._verify,
            ) as response:
                token = response.headers.get("X-FM-Data-Access-Token")
                return Answer(response.status_code, self._read(response, deadline, lost), token)
        except (requests.RequestException, HTTPError) as error:
            # Neither its text nor a chain to it: both quote the address, which holds the token or the parameter.
            raise _failure(error, url, deadline, lost) from None

    def _read(self, response: requests.Response, deadline: Deadline, lost: Remedy) -> bytes:
        body = bytearray()
        # Not `iter_content`, which waits until a chunk is full, for ever if a byte comes now and then.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > self._max_bytes:
                raise Failure(
                    f"it ran, but its answer has more than the {self._max_bytes} bytes allowed",
                    Remedy.ASK,
                    advice="let the script return less, or raise `max_bytes`",
                )
            if not deadline.left():
                raise _late(deadline, lost)
        return bytes(body)


def _failure(error: requests.RequestException | HTTPError, url: str, deadline: Deadline, lost: Remedy) -> Failure:
    host = urlsplit(url).netloc
    if isinstance(error, requests.exceptions.SSLError):
        return Failure(
            "the connection to the server is not secure, so it was not called",
            Remedy.OPERATOR,
            advice=f"the certificate of {host} was refused: name its authority in `ca_file`, or renew it",
        )
    if isinstance(error, requests.exceptions.ConnectTimeout) or _never_sent(error):
        return Failure(
            "it was not called, the server cannot be reached",
            Remedy.LATER,
            advice=f"does {host} run, and may this machine connect to it?",
        )
    if isinstance(error, requests.exceptions.Timeout) or not deadline.left():
        return _late(deadline, lost)
    return Failure(
        "the connection broke before the answer came", lost, advice=f"{type(error).__name__} at {host}: see its log"
    )


def _never_sent(error: Exception) -> bool:
    """Tell whether no connection was made; `requests` has one class for that and for a connection that broke."""
    return any(isinstance(getattr(cause, "reason", None), NewConnectionError) for cause in error.args)


def _late(deadline: Deadline, lost: Remedy) -> Failure:
    return Failure(
        f"no answer came within {deadline.seconds:g} seconds",
        lost,
        advice="make the script faster, or raise `timeout`",
    )
