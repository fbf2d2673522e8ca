"""The service: all of it or nothing of it."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from bf_plugin.errors import ConfigurationError, ContextError
from bf_plugin.plugins import loaded
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.settings import Settings
from bf_plugin.testing import new_draft
from bf_plugin.values import Run, RunDraft
from bf_plugin.web import assembly as service
from bf_plugin.web.assembly import Service


def host(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError("no request of the host is made here")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []
    key = SecretStr(Fernet.generate_key().decode())

    def make(plugins: tuple[object, ...] = (), **values: Any) -> Service:
        url = f"sqlite:///{tmp_path / 'journal.db'}"
        settings = Settings(database_url=url, secret_key=key, **values)
        made.append(Service(host, name=None, settings=settings, plugins=plugins))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("bf-")}


def left(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that have come since `before` and do not end: a thread that was told to may need a moment."""
    for thread in ours() - before:
        thread.join(5)
    return ours() - before


def marks(folder: Path) -> list[Path]:
    return list((folder / "journal.db.d").glob("*"))


def test_close_leaves_nothing(make: Callable[..., Service], tmp_path: Path) -> None:
    """Neither a thread nor a mark; closing twice is closing once."""
    before = ours()
    running = make()
    assert ours() - before
    assert len(marks(tmp_path)) == 1

    running.close()
    running.close()

    assert left(before) == set()
    assert marks(tmp_path) == []


def test_a_service_that_cannot_be_made_leaves_nothing(
    make: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting is tried again every few seconds: what was open is closed each time."""
    before = ours()

    def fail(*args: object) -> None:
        raise ConfigurationError("late")

    monkeypatch.setattr(service, "create_app", fail)
    with pytest.raises(ConfigurationError, match="late"):
        make()

    assert left(before) == set()
    assert marks(tmp_path) == []


def test_one_part_that_fails_to_close_does_not_keep_the_others(
    make: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is given up and the threads end, though something hangs or raises."""
    before = ours()
    running = make()
    monkeypatch.setattr(loaded, "_TIMEOUT", 0.01)

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(type(running._plugins), "aclose", lambda self: hang())

    running.close()

    assert left(before) == set()
    assert marks(tmp_path) == []


class Counter:
    """A plugin that uses what it is lent at every stage of its life."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context
        self.said: list[str] = []

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        self.said.append(f"{self.context.store.increment('runs')} in {self.context.run_async(thread_name())}")

    async def aclose(self) -> None:
        counted = await asyncio.to_thread(self.context.store.get, "runs")
        self.said.append(f"{counted} at aclose in {await thread_name()}")

    def close(self) -> None:
        self.said.append(f"{self.context.store.increment('runs')} at close in {self.context.run_async(thread_name())}")


async def thread_name() -> str:
    return threading.current_thread().name


def test_plugins_are_lent_the_journal_and_the_loop(make: Callable[..., Service]) -> None:
    """From the first hook until `close` has returned, and not longer; the counter goes on in the next service."""
    plugins: list[Counter] = []

    def counter(context: PluginContext) -> Counter:
        plugins.append(Counter(context))
        return plugins[-1]

    for expected in (1, 3):
        running = make((counter,))
        running._hooks.before_run(new_draft())
        running.close()
        count = expected
        assert plugins[-1].said == [
            f"{count} in bf-loop",
            f"{count} at aclose in bf-loop",
            f"{count + 1} at close in bf-loop",
        ]
        with pytest.raises(ContextError, match="after the plugin was closed"):
            plugins[-1].context.store.get("runs")


def test_a_plugin_that_hangs_in_close_does_not_keep_the_service(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left behind, and the log says so."""
    monkeypatch.setattr(loaded, "_TIMEOUT", 0.05)
    free = threading.Event()
    plugin = types.SimpleNamespace(name="hangs", close=free.wait, on_end=hookimpl(lambda run: None))
    make((plugin,)).close()
    free.set()
    assert "a plugin hangs in its close" in caplog.text


def test_plugins_warm_up_when_the_gateway_starts(
    make: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    """Not when they are loaded; one that fails is named, and the others are warmed up all the same."""
    counted: list[int] = []

    class Warm:
        def __init__(self, context: PluginContext) -> None:
            self.context = context

        @hookimpl
        def on_end(self, run: Run) -> None:
            pass

        def warm_up(self) -> None:
            counted.append(self.context.active_runs())

    def fail() -> None:
        raise OSError("the stove is broken")

    cold = types.SimpleNamespace(name="cold", warm_up=fail, on_end=hookimpl(lambda run: None))
    load_plugins([cold, Warm])
    assert counted == []
    make((cold, Warm)).wait_until_warm()
    assert counted == [0]
    assert "plugin cold failed in warm_up: the stove is broken" in caplog.text


def test_a_required_plugin_that_is_missing(make: Callable[..., Service]) -> None:
    """The start fails, and what has been opened until then is closed: the next start may find the plugin."""
    closed: list[str] = []
    plugin = types.SimpleNamespace(
        name="other", close=lambda: closed.append("other"), on_end=hookimpl(lambda run: None)
    )
    with pytest.raises(ConfigurationError, match="BF_PLUGINS_REQUIRED: plugin guardian is not loaded"):
        make((plugin,), plugins_required="other, guardian")
    assert closed == ["other"]
    plugin.name = "guardian"
    make((plugin,), plugins_required="guardian").close()


@pytest.mark.parametrize("url", ["carrier-pigeon://loft", "http://[", "no url"])
def test_a_messaging_url_nobody_serves(make: Callable[..., Service], url: str) -> None:
    """Its runs would be silent: the start fails instead, and says why, without the URL and its password."""
    with pytest.raises(ConfigurationError, match=r"BF_MESSAGING_URL.*http://") as caught:
        make(messaging_url=url)
    assert url not in str(caught.value)
