from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.errors import ConfigurationError, RequestError
from bf_plugin.gateway.apps import App, ConfiguredApps, key_digest
from bf_plugin.gateway.asking import AskAnswer, AskedApps, ask_host, create_apps
from bf_plugin.gateway.host import HostCaller
from bf_plugin.settings import load_settings
from bf_plugin.testing.gateway import RecordingGateway

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = "BFAPI_good"
APPS = """
[apps.portal]
api_keys = ["old", "BFAPI_new"]
messaging_url = "https://portal.example"
openai_api_key = "sk-portal"
model = "m1"
instructions = "Be kind."
allowed_files = ["file-1"]
allowed_vector_stores = ["vs_1"]
allowed_containers = ["cntr_1"]
max_runs = 3
assistants.helper = {model = "m2"}

[apps.other]
api_keys = ["schlüssel mit leerzeichen"]
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests play no part."""
    for name in ("BF_API_KEYS", "BF_APPS_FILE", "BF_MESSAGING_URL", "BF_OPENAI_API_KEY", "BF_MODEL"):
        monkeypatch.delenv(name, raising=False)


def code(apps: Any, key: str) -> int:
    """Return the status a key is refused with."""
    with pytest.raises(RequestError) as caught:
        apps.authenticate(key, {})
    assert key not in f"{caught.value} {caught.value.details} {caught.value.errors} {caught.value.data}"
    return caught.value.code


# Configured


def test_each_of_the_api_keys_is_an_app() -> None:
    """`BF_API_KEYS` lists keys of any shape; an app's identity does not tell its key."""
    apps = ConfiguredApps(
        load_settings(api_keys="one, two", model="m", openai_api_key="sk-1", messaging_url="http://x")
    )
    one = apps.authenticate("one", {})
    assert one == App(
        id=key_digest("one"), api_key="one", messaging_url="http://x", provider_keys={"openai": "sk-1"}, model="m"
    )
    assert apps.authenticate("two", {}).id != one.id
    assert "one" not in one.id
    assert code(apps, "three") == 401


def test_the_apps_file_names_apps(tmp_path: Path) -> None:
    """An app keeps its identity over its keys, and what it does not set comes from the settings for all."""
    (tmp_path / "apps.toml").write_text(APPS, encoding="utf-8")
    apps = ConfiguredApps(
        load_settings(apps_file=tmp_path / "apps.toml", model="m", openai_api_key="sk-all", messaging_url="http://all")
    )
    old, new = apps.authenticate("old", {}), apps.authenticate("BFAPI_new", {})
    assert (old.id, new.id) == ("portal", "portal")
    assert (old.api_key, new.api_key) == ("old", "BFAPI_new")
    assert (new.messaging_url, new.provider_keys["openai"], new.model) == ("https://portal.example", "sk-portal", "m1")
    assert (new.instructions, new.max_runs, new.assistants["helper"].model) == ("Be kind.", 3, "m2")
    assert [*new.allowed_files, *new.allowed_vector_stores, *new.allowed_containers] == ["file-1", "vs_1", "cntr_1"]
    other = apps.authenticate("schlüssel mit leerzeichen", {})
    assert (other.id, other.model, other.provider_keys["openai"], other.messaging_url) == (
        "other",
        "m",
        "sk-all",
        "http://all",
    )
    assert code(apps, "portal") == 401


@settings(max_examples=50)
@given(key=st.text(st.characters()))
def test_no_other_key_is_valid(key: str) -> None:
    """Whatever is sent, lone surrogates included, only the exact key is one."""
    apps = ConfiguredApps(load_settings(api_keys="key-1"))
    if key != "key-1":
        with pytest.raises(RequestError):
            apps.authenticate(key, {})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"apps": {"a": {"api_keys": ["same"]}, "b": {"api_keys": ["x", "same"]}}}, "apps.b"),
        ({"api_keys": "same", "apps": {"a": {"api_keys": ["same"]}}}, "apps.a"),
        ({"apps": {"a": {"api_keys": ["x", " "]}}}, "apps.a.api_keys has an empty key"),
    ],
)
def test_keys_that_tell_no_apps_apart_are_refused(values: dict[str, Any], told: str) -> None:
    """A key of two apps, or an empty one, is found at start, and the error does not hold it."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        ConfiguredApps(load_settings(**values))
    assert "same" not in str(caught.value)


def test_a_key_listed_twice_for_one_app_is_one_key() -> None:
    """Repetition is no conflict."""
    assert ConfiguredApps(load_settings(api_keys="a,a")).authenticate("a", {}).api_key == "a"


# Asked


class Gateway:
    """Answers for a gateway: `statuses` by key, `other` for the rest; counts questions."""

    def __init__(self, other: int | None = 401, **statuses: int | None) -> None:
        self.other = other
        self.statuses = statuses
        self.asked: list[str] = []
        self.environs: list[Mapping[str, Any]] = []
        self.json = True
        self.now = 1000.0

    def __call__(self, api_key: str, environ: Mapping[str, Any]) -> AskAnswer:
        self.asked.append(api_key)
        self.environs.append(environ)
        return AskAnswer(self.statuses.get(api_key, self.other), self.json)

    def apps(self, **values: Any) -> AskedApps:
        return AskedApps(self, load_settings(**values), clock=lambda: self.now)

    @property
    def about_keys(self) -> list[str]:
        """The questions about keys somebody sent."""
        return [key for key in self.asked if key in self.statuses]

    @property
    def probes(self) -> int:
        return len(self.asked) - len(self.about_keys)


def test_an_asked_key_is_an_app_of_its_own() -> None:
    """A key the gateway accepts is an app, with the settings for all."""
    gateway = Gateway(BFAPI_good=201)
    app = gateway.apps(messaging_url="http://x", openai_api_key="sk-1", model="m").authenticate(KEY, {"HTTP_HOST": "h"})
    assert app == App(
        id=key_digest(KEY), api_key=KEY, messaging_url="http://x", provider_keys={"openai": "sk-1"}, model="m"
    )
    assert gateway.environs == [{"HTTP_HOST": "h"}] * 2


@pytest.mark.parametrize("status", [200, 201])
def test_valid_keys_are_remembered_for_a_minute(status: int) -> None:
    """The gateway is asked once a minute about a key, and about a random one."""
    gateway = Gateway(BFAPI_good=status)
    apps = gateway.apps()
    for moment in (0.0, 0.0, 59.9):
        gateway.now = 1000.0 + moment
        apps.authenticate(KEY, {})
    assert (gateway.about_keys, gateway.probes) == ([KEY], 1)
    gateway.now = 1060.0
    apps.authenticate(KEY, {})
    assert (gateway.about_keys, gateway.probes) == ([KEY, KEY], 2)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_keys_are_remembered_for_five_seconds(status: int) -> None:
    """A key that was just given out works within 5 s, and a wrong one does not hammer the gateway."""
    gateway = Gateway(BFAPI_bad=status)
    apps = gateway.apps()
    for moment in (0.0, 4.9):
        gateway.now = 1000.0 + moment
        assert code(apps, "BFAPI_bad") == 401
    assert gateway.about_keys == ["BFAPI_bad"]
    gateway.now, gateway.statuses["BFAPI_bad"] = 1005.0, 200
    assert apps.authenticate("BFAPI_bad", {}).api_key == "BFAPI_bad"


@pytest.mark.parametrize("status", [None, 204, 302, 400, 404, 429, 500, 503])
def test_anything_else_is_unavailable_and_not_remembered(status: int | None) -> None:
    """An answer that tells nothing is 503 with Retry-After, and the next start asks again."""
    gateway = Gateway(BFAPI_good=status)
    apps = gateway.apps()
    with pytest.raises(RequestError) as caught:
        apps.authenticate(KEY, {})
    assert (caught.value.code, caught.value.retry_after) == (503, 5.0)
    gateway.statuses[KEY] = 201
    assert apps.authenticate(KEY, {}).api_key == KEY
    assert gateway.about_keys == [KEY, KEY]


def test_200_without_json_is_no_yes() -> None:
    """A page that is shown for every path accepts nobody."""
    gateway = Gateway(BFAPI_good=200)
    gateway.json = False
    assert code(gateway.apps(), KEY) == 503


def test_a_gateway_that_accepts_any_key_is_not_trusted() -> None:
    """Zero configuration is off where a made-up key is valid; the error says what to set; after a minute: again."""
    gateway = Gateway(other=200, BFAPI_good=200)
    apps = gateway.apps()
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            apps.authenticate(KEY, {})
        assert caught.value.code == 503
        assert "BF_API_KEYS" in str(caught.value.details)
    assert (gateway.about_keys, gateway.probes) == ([], 1)
    gateway.now += 60
    gateway.other = 401
    assert apps.authenticate(KEY, {}).api_key == KEY


def test_probes_are_random_and_well_formed() -> None:
    """Nobody can prepare a gateway's answer to the probe."""
    gateway = Gateway(BFAPI_good=200)
    for _ in range(2):
        gateway.apps().authenticate(KEY, {})
    first, second = (key for key in gateway.asked if key != KEY)
    assert first != second
    assert first.startswith("BFAPI_")
    assert len(first) > 30


@pytest.mark.parametrize("status", [None, 200, 302, 408, 425, 429, 500])
def test_a_probe_that_could_not_be_made_is_made_again(status: int | None) -> None:
    """While the gateway is down or busy nothing is learnt, and no key is asked about."""
    gateway = Gateway(other=status, BFAPI_good=200)
    gateway.json = False
    apps = gateway.apps()
    assert code(apps, KEY) == 503
    assert gateway.about_keys == []
    gateway.other, gateway.json = 401, True
    assert apps.authenticate(KEY, {}).api_key == KEY
    assert gateway.probes == 2


@pytest.mark.parametrize("key", ["", "BFAPI_", "bfapi_x", "BFAPI_x y", "BFAPI_x\n", "BFAPI_ä", "sk-x", "BFAPI_\ud800"])
def test_what_is_no_key_is_not_asked_about(key: str) -> None:
    """A string of another shape is refused without asking."""
    gateway = Gateway(other=200)
    with pytest.raises(RequestError) as caught:
        gateway.apps().authenticate(key, {})
    assert (caught.value.code, gateway.asked) == (401, [])


def test_at_most_ten_thousand_answers_are_kept() -> None:
    """The least recently used key goes first."""
    gateway = Gateway()
    apps = gateway.apps()
    keys = [f"BFAPI_{number}" for number in range(10_000)]
    gateway.statuses = dict.fromkeys(keys, 200)
    for key in keys:
        apps.authenticate(key, {})
    # The probe holds a place too.
    assert len(apps._known) == 10_000
    for key in (keys[-1], keys[1], keys[0]):
        apps.authenticate(key, {})
    assert gateway.about_keys == [*keys, keys[0]]


def test_one_question_at_a_time_about_a_key() -> None:
    """Starts that come together with one key cost a slow gateway one question."""
    gateway = Gateway(BFAPI_good=200)
    asked, go = threading.Semaphore(0), threading.Event()

    def slow(api_key: str, environ: Mapping[str, Any]) -> AskAnswer:
        if api_key == KEY:
            asked.release()
            assert go.wait(5)
        return gateway(api_key, environ)

    apps = AskedApps(slow, load_settings())
    with ThreadPoolExecutor(5) as pool:
        starts = [pool.submit(apps.authenticate, KEY, {}) for _ in range(5)]
        assert asked.acquire(timeout=5)
        go.set()
        assert {start.result(5).api_key for start in starts} == {KEY}
    assert gateway.about_keys == [KEY]


# The host, in-process


def test_the_host_is_asked_as_betterforms_lists_channels() -> None:
    """The shipped gateway, asked in-process, tells its keys from others."""
    caller = HostCaller(RecordingGateway(keys=[KEY]))
    apps = AskedApps(ask_host(caller), load_settings())
    assert apps.authenticate(KEY, {}).api_key == KEY
    assert code(apps, "BFAPI_bad") == 401
    caller.close()


@pytest.mark.parametrize(("body", "expected"), [(b"[]", 200), (b"<html>", 503), (b"", 503)])
def test_the_hosts_answer_must_be_json(body: bytes, expected: int) -> None:
    """The body decides, whatever its type is called."""

    def host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        question = json.loads(environ["wsgi.input"].read())
        start_response("200 OK" if question == {"apiKey": KEY} else "401 No", [])
        return [body]

    caller = HostCaller(host)
    apps = AskedApps(ask_host(caller), load_settings())
    if expected == 200:
        assert apps.authenticate(KEY, {}).api_key == KEY
    else:
        assert code(apps, KEY) == expected
    caller.close()


def test_a_failing_host_is_unavailable_and_its_reason_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What went wrong in the host is told to the operator, not to whoever sent a key."""

    def host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise RuntimeError(KEY)

    caller = HostCaller(host)
    with pytest.raises(RequestError) as caught:
        AskedApps(ask_host(caller), load_settings()).authenticate(KEY, {})
    assert caught.value.code == 503
    assert __file__ not in str(caught.value.details)
    assert "RuntimeError" in caplog.text
    assert __file__ in caplog.text
    assert KEY not in caplog.text
    caller.close()


# The choice


def test_the_settings_choose_who_knows_the_apps() -> None:
    """Configured keys first, then the messaging URL, then the host; with none of them there is no start."""
    caller = HostCaller(RecordingGateway(keys=[KEY]))
    assert isinstance(create_apps(load_settings(api_keys="x", messaging_url="http://x"), caller), ConfiguredApps)
    assert isinstance(create_apps(load_settings(apps={"a": {"api_keys": ["x"]}}), None), ConfiguredApps)
    assert isinstance(create_apps(load_settings(messaging_url="http://127.0.0.1:9"), None), AskedApps)
    assert create_apps(load_settings(), caller).authenticate(KEY, {}).messaging_url is None
    with pytest.raises(ConfigurationError, match="BF_API_KEYS"):
        create_apps(load_settings(), None)
    caller.close()
