"""The guard in runs, from the request to the page; over restarts, mounts and processes."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bf_hook_guard import create
from bf_hook_guard.budgets import bounds
from bf_hook_guard.plugin import Limiter
from cryptography.fernet import Fernet

from bf_plugin import PluginContext, ProviderError, Run, RunDraft, RunRejected, Usage, hookimpl
from bf_plugin.errors import JournalError
from bf_plugin.testing import Deployment, Gate, MemoryStore, ScriptedEngine, Site, assert_events, check_plugin
from bf_plugin.testing.deployment import APP_KEY

Scripted = Callable[..., Deployment]

TEXT = {"rules": [{"name": "names", "terms": ["Rosebud"]}, {"name": "contact", "pii": ["email"], "replace": "[mail]"}]}
STOP = {"rules": [{"name": "plans", "pattern": r"project\s{1,3}x", "stop": True}]}


def guarded(section: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"sections": {"guard": section}, **options}


# text ----------------------------------------------------------------------------------------------------------------


def test_words_are_covered_however_they_are_cut(scripted: Scripted) -> None:
    """The page, and whoever reads the run later, see the same covered text."""
    deployed = scripted(["It is Rose", "bud: write to ci", "tizen@exam", "ple.com."], **guarded(TEXT))

    run = deployed.start()

    shown = "It is ███████: write to [mail]."
    assert_events(deployed.events(run), "threadInfo delta+ end", text=shown, finish_reason="stop")
    kept = deployed.get(f"/runs/{run['runId']}", headers={"X-Thread-Id": run["threadId"]}).json()
    assert kept["text"] == shown


def test_polling_callers_get_the_same(scripted: Scripted) -> None:
    """An answer that is not streamed goes the same way."""
    deployed = scripted(["It is Rose", "bud"], **guarded(TEXT))
    assert "It is ███████" in json.dumps(deployed.poll(), ensure_ascii=False)


def test_what_was_held_goes_out_at_the_end(scripted: Scripted) -> None:
    """A beginning of a word that never came is text like any other."""
    deployed = scripted(["A rose, a Rose"], **guarded(TEXT))
    assert_events(deployed.events(deployed.start()), "threadInfo delta+ end", text="A rose, a Rose")


def test_what_may_go_out_does_not_wait(scripted: Scripted) -> None:
    """While the model stands still, all but the beginning of a word is on the page."""
    gate = Gate()
    deployed = scripted(["Nothing of this is held, but for Rose", gate, "mary"], **guarded(TEXT))
    run = deployed.start()
    deployed.wait_for_text(run, "Nothing of this is held, but for ")
    gate.release()
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Nothing of this is held, but for Rosemary")


def test_a_stop_in_mid_stream(scripted: Scripted) -> None:
    """The page keeps what came before, gets an end that says why, and the provider is told to stop."""
    before, after = Gate(), Gate()
    script = ["You may know: ", before, "the pro", "ject", " x begins", after, " soon"]
    deployed = scripted(script, **guarded(STOP))
    run = deployed.start()
    deployed.wait_for_text(run, "You may know: ")

    before.release()

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ end", finish_reason="content_filter")
    assert deployed.text(run) in ("You may know: ", "You may know: the ")
    deployed.gateway.wait_for(lambda: deployed.engine.cancelled)
    after.release()


def test_a_stop_with_a_reason(scripted: Scripted) -> None:
    """The run has failed then, and the page is told why."""
    section = {"rules": [{**STOP["rules"][0], "reason": "Plans are not told here."}]}
    deployed = scripted("The project x begins.", **guarded(section))
    events = deployed.events(deployed.start())
    assert_events(events, "threadInfo delta* error end", finish_reason="error")
    (error,) = [event["error"] for event in events if event["type"] == "error"]
    assert (error["message"], error["code"]) == ("Plans are not told here.", "stopped_by_hook")


def test_a_restart_in_mid_word(scripted: Scripted) -> None:
    """The process that takes over is shown the text again, and covers the word all the same."""
    gate = Gate()
    deployed = scripted(["It is Rose", gate, "bud."], **guarded(TEXT))
    run = deployed.start()
    deployed.wait_for_text(run, "It is ")

    deployed.restart()
    gate.release()

    assert_events(deployed.events(run), "threadInfo delta+ end", text="It is ███████.")


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_callback_by_its_name(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_thread: bool
) -> None:
    """On the event loop, or in a worker thread when it blocks."""
    (tmp_path / f"guard_callback_{in_thread}.py").write_text(
        "import asyncio, threading\n"
        "def ask(text, run):\n"
        "    try:\n"
        "        asyncio.get_running_loop()\n"
        "    except RuntimeError:\n"
        "        return 'thread'\n"
        "    return 'loop'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = {"name": "numbers", "pattern": r"\d{1,9}", "callback": f"guard_callback_{in_thread}.ask"}
    deployed = scripted(["It is 4", "2."], **guarded({"rules": [rule], "in_thread": in_thread}))
    shown = "It is thread." if in_thread else "It is loop."
    assert_events(deployed.events(deployed.start()), "threadInfo delta+ end", text=shown)


def test_a_callback_that_fails_lets_nothing_through(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with an error that names the plugin and quotes neither the text nor the exception."""
    (tmp_path / "guard_callback_fails.py").write_text("def ask(text, run): raise OSError('no route to 10.0.0.7')")
    monkeypatch.syspath_prepend(tmp_path)
    rule = {"name": "numbers", "pattern": r"\d{1,9}", "callback": "guard_callback_fails.ask"}
    deployed = scripted(["It is 42."], **guarded({"rules": [rule]}))
    run = deployed.start()
    events = deployed.events(run)
    assert_events(events, "threadInfo delta* error end", finish_reason="error")
    (error,) = [event["error"] for event in events if event["type"] == "error"]
    assert (error["code"], error["details"]) == ("plugin_failed", "guard")
    assert "10.0.0.7" not in str(events)
    assert "42" not in deployed.text(run)


def test_the_log_says_which_rules_found_something(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """How often, and not what."""
    with caplog.at_level(logging.INFO, "bf_hook_guard"):
        deployed = scripted("Rosebud, rosebud, bob@example.com", **guarded(TEXT))
        deployed.events(deployed.start())
        deployed.gateway.wait_for(lambda: "by rule: contact 1, names 2" in caplog.text)
    assert not [record for record in caplog.records if record.name == "bf_hook_guard" and "bob" in record.getMessage()]


# limits --------------------------------------------------------------------------------------------------------------


class Clock:
    """Begins with the present day and is turned by hand."""

    def __init__(self) -> None:
        self.begin, self.end = bounds("day", time.time())
        self.now = float(self.begin)

    def guard(self) -> Callable[[PluginContext], Limiter]:
        """Return a factory for `plugins` that takes the place of the installed one."""

        def guard(context: PluginContext) -> Limiter:
            return create(context, now=lambda: self.now)

        return guard


def test_a_refused_start(scripted: Scripted) -> None:
    """429 in the form of Feathers' errors, Retry-After, nothing asked of the provider; until the period is over."""
    clock = Clock()
    clock.now += 3600.5
    section = {"limits": [{"period": "day", "runs": 1}]}
    deployed = scripted("first", "second", plugins=[clock.guard()], **guarded(section))
    deployed.poll()

    answer = deployed.post("", deployed.body())

    body = answer.json()
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == str(23 * 3600)
    assert (body["success"], body["name"], body["className"], body["code"]) == (
        False,
        "TooManyRequests",
        "too-many-requests",
        429,
    )
    assert body["message"].startswith("this app has used its 1 run of this day; the next begins at ")
    assert body["error"]["message"] == body["message"]
    assert deployed.engine.unused == 1

    clock.now = clock.end
    assert "second" in json.dumps(deployed.poll())


class Told:
    """Is told of ends last of all: when it has been, the guard has counted the run."""

    def __init__(self) -> None:
        self._runs = threading.Semaphore(0)

    @hookimpl(trylast=True)
    def on_end(self, run: Run) -> None:
        self._runs.release()

    def wait(self) -> None:
        assert self._runs.acquire(timeout=20)


def test_tokens_are_counted_when_a_run_is_over(deploy: Scripted) -> None:
    """As the provider counts them; of a run that failed, what is known or estimated."""
    clock, told = Clock(), Told()
    failed = ProviderError("broken", code="server_error")
    engine = ScriptedEngine("one", ["four", failed], "three", usage=Usage(prompt_tokens=60, total_tokens=60))
    section = {"limits": [{"period": "day", "tokens": 100}]}
    deployed = deploy(engine=engine, plugins=[clock.guard(), told], **guarded(section))
    for _ in range(3):
        deployed.events(deployed.start())
        told.wait()
    assert "its 100 tokens of this day (1 are estimated)" in deployed.refused(429, deployed.body())["message"]


class GoneStore(MemoryStore):
    """A store whose database cannot be reached."""

    def get(self, key: str, default: Any = None) -> Any:
        raise JournalError("the database is not there: start it")


def test_a_store_that_cannot_be_reached(scripted: Scripted) -> None:
    """Closed: 503, when to try again, and nothing of the reason, which is in the log."""

    def guard(context: PluginContext) -> Limiter:
        return create(dataclasses.replace(context, store=GoneStore()))

    deployed = scripted(plugins=[guard], **guarded({"limits": [{"period": "day", "runs": 1}]}))
    answer = deployed.post("", deployed.body())
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["name"]) == (503, "5", "Unavailable")
    assert "database" not in answer.text


def test_what_another_plugin_refuses_does_not_count(scripted: Scripted) -> None:
    """The guard looks last."""

    class Moody:
        refuses = True

        @hookimpl
        def before_run(self, run: RunDraft) -> None:
            if self.refuses:
                raise RunRejected(403, "not today")

    moody = Moody()
    deployed = scripted("first", plugins=[moody], **guarded({"limits": [{"period": "day", "runs": 1}]}))
    deployed.refused(403, deployed.body())
    moody.refuses = False
    deployed.poll()


def test_two_mounts_on_one_database_count_together(deploy: Scripted, tmp_path: Path) -> None:
    """And a restart forgets nothing."""
    clock = Clock()
    shared = {"database_url": f"sqlite:///{tmp_path / 'shared.db'}", "secret_key": Fernet.generate_key().decode()}
    section = {"limits": [{"period": "day", "runs": 3}]}
    one, two = (
        deploy(engine=ScriptedEngine("a", "b"), plugins=[clock.guard()], **guarded(section), **shared) for _ in range(2)
    )
    one.poll()
    two.poll()
    one.restart()
    one.poll()
    for deployed in (one, two):
        deployed.refused(429, deployed.body())
    clock.now = clock.end
    two.poll()


def test_two_processes_count_together(site: Site) -> None:
    """Servers of their own, started as operators do, with settings from the apps file."""
    (site.folder / "apps.toml").write_text(
        f'[apps.portal]\napi_keys = ["{APP_KEY}"]\n[plugins.guard]\nlimits = [{{ period = "month", runs = 2 }}]\n'
    )
    del site.environ["BF_API_KEYS"]
    site.environ["BF_APPS_FILE"] = "apps.toml"
    servers = [site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0") for _ in range(2)]
    for server in servers:
        site.provider.script("Hello")
        site.start(server.url, stream=False)
    for server in servers:
        with pytest.raises(AssertionError, match="this app has used its 2 runs of this month"):
            site.start(server.url, stream=False)


# the rules for plugins -----------------------------------------------------------------------------------------------


def test_it_keeps_the_rules_without_settings() -> None:
    """Hooks, types, threads, failures: what bf_plugin asks of every distribution."""
    check_plugin("bf-hook-guard")


def test_it_keeps_the_rules_with_rules_of_every_kind() -> None:
    """However text is cut, and after a takeover, the page sees the same; and it does not block."""
    rules = [
        *TEXT["rules"],
        {"name": "numbers", "pii": ["phone", "card", "iban"]},
        {"name": "code", "pattern": r"`{3}[^`]{1,200}`{3}|\bfox\b(?! trot)", "replace": "<>"},
    ]
    limits = [{"period": "day", "runs": 1000, "tokens": 10, "cost": 1.0}]
    section = {"rules": rules, "limits": limits, "prices": {"*": {"prompt": 1.0, "completion": 2.0}}}
    check_plugin("bf-hook-guard", section=section, texts=["Rosebud", "rose", "@example.org"], examples=50)


def test_it_keeps_the_rules_when_it_stops_runs() -> None:
    """A stop comes wherever the text is cut."""
    check_plugin(
        "bf-hook-guard", section={**STOP, "in_thread": True}, texts=["Project", " ", "x", "project  x"], examples=50
    )
