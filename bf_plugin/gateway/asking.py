"""Apps a gateway knows: with nothing configured, the gateway that takes the messages says whether a key is valid.

It is asked with BetterForms' own call that lists an app's channels, `POST /message/channels` with `{"apiKey": KEY}`,
because it needs a valid key and changes nothing.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec

from bf_plugin.errors import ConfigurationError, RequestError, invalid
from bf_plugin.gateway.apps import App, Apps, ConfiguredApps, key_digest
from bf_plugin.gateway.host import HostCaller, HostFailed
from bf_plugin.runtime.logs import get_logger
from bf_plugin.settings import Settings

_LOG = get_logger(__name__)

PATH = "/message/channels"

_KEY = re.compile(r"BFAPI_[A-Za-z0-9-]+")
_VALID_FOR = 60.0
_REFUSED_FOR = 5.0
_PROBED_FOR = 60.0
_CACHED = 10_000
_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class AskAnswer:
    """What the gateway said about a key: `status` None is no answer; `problem` says why, without the key."""

    status: int | None
    is_json: bool = False
    problem: str = ""

    @property
    def accepts(self) -> bool:
        """Whether the gateway accepts the key."""
        return self.status in (200, 201) and self.is_json

    @property
    def refuses(self) -> bool:
        """Whether the gateway says that it does not know the key."""
        return self.status in (401, 403)

    @property
    def decides(self) -> bool:
        """Whether the gateway was well when it answered: a client error, busy ones excepted, or a valid key."""
        return self.accepts or (
            self.status is not None and 400 <= self.status < 500 and self.status not in (408, 425, 429)
        )


Ask = Callable[[str, Mapping[str, Any]], AskAnswer]
"""Asks about one key, for the request with this environ; blocks for up to 5 s, raises nothing."""


class AskedApps:
    """Each valid key is an app of its own. Answers are kept by digest: 60 s, refusals 5 s, the last 10,000.

    A gateway that accepts a key nobody has validates anything, so it is first asked about a random one (again every
    60 s): where it accepts that, no key is, and every start gets 503 that says what to set.
    """

    def __init__(self, ask: Ask, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._settings = settings
        self._clock = clock
        # Guards what follows; never held while asking.
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self._asking: dict[str, Future[AskAnswer]] = {}

    def authenticate(self, api_key: str, environ: Mapping[str, Any]) -> App:
        """Return the app of a key. Raises RequestError 401 for an unknown key, 503 when the gateway does not tell."""
        if not _KEY.fullmatch(api_key):
            raise invalid("apiKey", "is not valid", 401)
        digest = key_digest(api_key)
        valid = self._remembered(digest)
        if valid is None:
            self._probe(environ)
            answer = self._ask_once(digest, api_key, environ)
            if not (answer.accepts or answer.refuses):
                raise _unavailable(answer)
            valid = answer.accepts
            self._remember(digest, valid, _VALID_FOR if valid else _REFUSED_FOR)
        if not valid:
            raise invalid("apiKey", "is not valid", 401)
        return self._app(digest, api_key)

    def _probe(self, environ: Mapping[str, Any]) -> None:
        """Make sure that the gateway does not accept just any key. Raises RequestError 503 when it does, or is down."""
        accepted = self._remembered("probe")
        if accepted is None:
            answer = self._ask_once("probe", made_up_key(), environ)
            if not answer.decides:
                raise _unavailable(answer)
            accepted = answer.accepts
            self._remember("probe", accepted, _PROBED_FOR)
        if accepted:
            raise RequestError(
                503,
                "app keys cannot be checked: the gateway accepts any key",
                details=f"POST {PATH} answers a made-up key like a valid one. Set BF_API_KEYS or BF_APPS_FILE.",
            )

    def _ask_once(self, digest: str, api_key: str, environ: Mapping[str, Any]) -> AskAnswer:
        """Ask, or wait for the answer to the same question that is under way, so that a slow gateway has one a key."""
        with self._lock:
            pending = self._asking.get(digest)
            if pending is None:
                mine = self._asking[digest] = Future()
        if pending is not None:
            return pending.result()
        try:
            mine.set_result(self._ask(api_key, environ))
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._lock:
                del self._asking[digest]
        return mine.result()

    def _remembered(self, digest: str) -> bool | None:
        with self._lock:
            valid, until = self._known.get(digest, (None, 0.0))
            if valid is None or until <= self._clock():
                return None
            self._known.move_to_end(digest)
            return valid

    def _remember(self, digest: str, valid: bool, seconds: float) -> None:
        with self._lock:
            self._known[digest] = (valid, self._clock() + seconds)
            self._known.move_to_end(digest)
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)

    def _app(self, digest: str, api_key: str) -> App:
        return App(
            id=digest,
            api_key=api_key,
            messaging_url=self._settings.messaging_url,
            provider_keys={name: key.get_secret_value() for name, key in self._settings.keys_by_provider.items()},
            model=self._settings.model,
        )


def made_up_key() -> str:
    """Return a well-formed key that nobody has: who accepts it checks nothing."""
    return f"BFAPI_{secrets.token_hex(16)}"


def ask_host(caller: HostCaller) -> Ask:
    """Return the asker of the host app, in-process."""

    def ask(api_key: str, environ: Mapping[str, Any]) -> AskAnswer:
        try:
            answer = caller.call(PATH, _question(api_key), environ)
        except HostFailed as error:
            return AskAnswer(None, problem=str(error))
        return _answer(answer.status, answer.body)

    return ask


def ask_remote(url: str, *, timeout: float = 5.0) -> Ask:
    """Return the asker of a gateway at a messaging URL; `timeout` is in seconds."""

    def ask(api_key: str, environ: Mapping[str, Any]) -> AskAnswer:
        # Here, because most deployments never ask and requests is slow to import.
        import requests

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            response = requests.post(
                url.rstrip("/") + PATH, _question(api_key), headers=headers, timeout=timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            return AskAnswer(None, problem=f"the gateway gave no answer ({type(error).__name__})")
        return _answer(response.status_code, response.content)

    return ask


def _question(api_key: str) -> bytes:
    return msgspec.json.encode({"apiKey": api_key})


def _answer(status: int, body: bytes) -> AskAnswer:
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError:
        return AskAnswer(status, False, f"POST {PATH} answered {status} without JSON")
    return AskAnswer(status, True, f"POST {PATH} answered {status}")


def _unavailable(answer: AskAnswer) -> RequestError:
    """Return the 503 for an answer that decides nothing. The log gets the reason: it may name the host's files."""
    _LOG.warning("app keys cannot be checked: %s", answer.problem)
    return RequestError(
        503, "app keys cannot be checked now", details="The gateway gave no usable answer.", retry_after=_RETRY_AFTER
    )


def create_apps(settings: Settings, host_caller: HostCaller | None) -> Apps:
    """Return the source of apps the settings ask for: configured keys, else a remote gateway, else the host app.

    Raises ConfigurationError when there is none of them, or when two apps share a key.
    """
    if settings.names("api_keys") or settings.apps:
        return ConfiguredApps(settings)
    if settings.messaging_url is not None:
        return AskedApps(ask_remote(settings.messaging_url), settings)
    if host_caller is not None:
        return AskedApps(ask_host(host_caller), settings)
    raise ConfigurationError("nobody to ask for app keys: set BF_API_KEYS, BF_APPS_FILE or BF_MESSAGING_URL")
