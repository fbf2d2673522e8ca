"""The receivers of messages: the doctor asks them and sends to them as runs do."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.doctor.finding import Finding, failed, ok, shown, skipped
from bf_plugin.errors import DeliveryError, DeliveryRefused
from bf_plugin.gateway.apps import App
from bf_plugin.gateway.asking import Ask, AskAnswer, ask_host, ask_remote, made_up_key
from bf_plugin.gateway.events import encode_message, named_action
from bf_plugin.gateway.host import HostCaller, host_environ
from bf_plugin.gateway.messengers import Destination, HostMessenger, Messenger, scheme_of
from bf_plugin.runtime.loop import LoopThread

ACTION = "bfPluginDoctor"
"""The named action of a test message. A page that has no action of this name does nothing (BetterForms docs, Named
Actions, "Lookup Order"), and our handler takes only its own."""

_TIMEOUT = 6.0
_CONFIGURE = "set BF_API_KEYS or BF_APPS_FILE"
_HOST_NAME = "; if the app looks at host name or scheme, say --url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """How the gateway is reached from here: `caller` is the host app's, None where none was named.

    `environ` stands for that of a start's request.
    """

    messengers: Mapping[str, Messenger]
    loop: LoopThread
    caller: HostCaller | None
    environ: Mapping[str, Any] = field(repr=False)


def trial_message(style: str) -> bytes:
    """Return a message that pages do nothing with, in the operator's `BF_EVENT_STYLE`."""
    event = {"type": "test", "content": "bf-plugin doctor tries whether messages arrive"}
    return encode_message([named_action(event, ACTION, style)])


class Receiver:
    """A messaging URL, or the host app (None). `asked`: starts ask it for app keys, since none are configured."""

    def __init__(self, gateway: Gateway, url: str | None, *, asked: bool) -> None:
        self._gateway = gateway
        self._url = url
        self._asked = asked
        self._name = "the host app" if url is None else shown(url)
        self._messenger = self._find_messenger()

    @property
    def reachable(self) -> bool:
        """Whether messages can be sent there from here."""
        return self._messenger is not None

    def unreachable(self) -> Finding:
        """Return why they cannot."""
        if self._url is None:
            return skipped(
                "messaging", "messages go to the host app, which can be looked at when --app MODULE:ATTR names it"
            )
        known = ", ".join(f"{scheme}://" for scheme in sorted(self._gateway.messengers)) or "none"
        return failed("messaging", f"{self._name}: no messenger is installed for its scheme", f"installed are: {known}")

    def probe(self) -> tuple[Finding, bool]:
        """Ask about a key that nobody has; tell whether answers about other keys mean anything."""
        ask = self._ask()
        if ask is None:
            return skipped("messaging", f"whether {self._name} knows keys: its messenger has no such question"), False
        answer = ask(made_up_key(), self._gateway.environ)
        if answer.refuses:
            return ok("messaging", f"{self._name} refuses a made-up key"), True
        if answer.accepts and self._asked:
            advice = f"{_CONFIGURE}: zero configuration is off, every start gets 503"
            return failed("messaging", f"{self._name} accepts any key, a made-up one too", advice), False
        if answer.accepts:
            text = f"whether {self._name} knows the keys: it accepts any, a made-up one too"
            return skipped("messaging", text), False
        return self._unclear(answer, "a made-up key"), self._asked and answer.decides

    def ask(self, label: str, app: App) -> Finding:
        """Ask about a key of an app."""
        ask = self._ask()
        answer = AskAnswer(None) if ask is None else ask(app.api_key, self._gateway.environ)
        if answer.accepts:
            return ok("messaging", f"{self._name} knows {label}")
        if answer.refuses:
            advice = "correct it here or there: " + ("starts with it get 401" if self._asked else "its runs would fail")
            return failed("messaging", f"{self._name} does not know {label} ({answer.status})", advice)
        return self._unclear(answer, label)

    def send(self, label: str, app: App, channel: str, style: str) -> Finding:
        """Send a test message to a channel through the messenger that runs use."""
        try:
            self._deliver(self._destination(app, channel), trial_message(style))
        except DeliveryError as error:
            advice = "the key is not valid for its messaging, or the URL is not that of a gateway"
            if not isinstance(error, DeliveryRefused):
                advice = "see that the gateway runs and is well; its log may say more"
            return failed("messaging", f"{self._name} did not take a test message with {label}: {error}", advice)
        except FutureTimeoutError:
            return failed("messaging", f"{self._name}: the test message took longer than {_TIMEOUT:g} s", "see its log")
        except Exception as error:  # of a messenger that is not ours: what it says may hold the key
            advice = "ask the author of the messenger"
            return failed("messaging", f"{self._name}: the messenger raised {type(error).__name__}", advice)
        return ok("messaging", f"{self._name} took a test message for channel {channel} with {label}")

    def _unclear(self, answer: AskAnswer, label: str) -> Finding:
        """Return what an answer means that neither accepts nor refuses."""
        problem = f"{self._name}, asked about {label}: {answer.problem}"
        hint = _HOST_NAME if self._url is None else ""
        if self._asked:
            advice = f"let it answer 401 to keys it does not know, and 200 with JSON to others, or {_CONFIGURE}{hint}"
            return failed("messaging", problem, advice)
        if answer.status is None or answer.status >= 500:
            return failed("messaging", problem, f"see that it runs, and BF_MESSAGING_URL or messaging_url{hint}")
        return skipped("messaging", f"{problem}; so a test message must tell (--channel)")

    def _ask(self) -> Ask | None:
        if self._url is not None:
            return ask_remote(self._url) if scheme_of(self._url) in ("http", "https") else None
        return None if self._gateway.caller is None else ask_host(self._gateway.caller)

    def _find_messenger(self) -> Messenger | None:
        if self._url is not None:
            return self._gateway.messengers.get(scheme_of(self._url))
        return None if self._gateway.caller is None else HostMessenger(self._gateway.caller)

    def _destination(self, app: App, channel: str) -> Destination:
        environ = host_environ(self._gateway.environ) if self._url is None else None
        return Destination(app=app.id, api_key=app.api_key, channels=[channel], url=self._url, host_environ=environ)

    def _deliver(self, destination: Destination, message: bytes) -> None:
        if self._messenger is not None:
            sending = self._gateway.loop.run(self._messenger.send(destination, message))
            try:
                sending.result(_TIMEOUT)
            finally:
                sending.cancel()
