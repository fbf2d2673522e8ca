"""Asking a provider, with an operator's key, in a thread that may block."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import requests

TIMEOUT = 5.0
"""Seconds an answer may take."""

_LONGEST = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; `status` None: nothing, and `problem` says why, without URL or key.

    `content` is the JSON of the body, None where it is none. It may quote the key: not to be shown.
    """

    status: int | None
    content: Any = field(default=None, repr=False)
    problem: str = ""


class Asker:
    """Asks one server with one key. Redirects are not followed: the key goes where the operator said.

    Proxies and certificates are those of the environment, as for the engine.
    """

    def __init__(self, base_url: str, key: str | None) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Return the answer to one request."""
        begun = time.monotonic()
        try:
            with requests.request(
                method,
                self._base_url + path,
                json=body,
                headers={"Accept": "application/json"},
                auth=self._authorize,
                verify=os.environ.get("SSL_CERT_FILE") or True,
                timeout=TIMEOUT,
                allow_redirects=False,
                stream=True,
            ) as response:
                read = bytearray()
                for chunk in response.iter_content(65536):
                    read += chunk
                    if len(read) > _LONGEST or time.monotonic() - begun > TIMEOUT:
                        break
                return Answer(response.status_code, _json(bytes(read)))
        except (requests.RequestException, ValueError) as error:
            return Answer(None, problem=_problem(error))

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key. As `auth`, because `requests` would else take a password of ~/.netrc instead."""
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _problem(error: Exception) -> str:
    """Say what went wrong. The error's own text is left out: it quotes URLs, and headers that cannot be sent."""
    for kind, text in _PROBLEMS.items():
        if isinstance(error, kind):
            return text
    return f"the request failed ({type(error).__name__})"


_PROBLEMS: dict[type[Exception], str] = {
    requests.exceptions.SSLError: "its certificate is not accepted here (SSL_CERT_FILE names others to trust)",
    requests.exceptions.ProxyError: "the proxy of the environment does not let it through (HTTPS_PROXY, NO_PROXY)",
    requests.exceptions.Timeout: f"no answer within {TIMEOUT:g} s",
    requests.exceptions.ConnectionError: "no connection",
    requests.exceptions.InvalidURL: "this is not a URL",
    requests.exceptions.InvalidSchema: "this is not a URL",
    requests.exceptions.MissingSchema: "this is not a URL",
    ValueError: "the key holds characters that cannot be sent",
}
"""The first that fits. What http.client refuses to send is a ValueError."""
