"""What docs/writing-hooks.md says is so: its plugins, its engine and messenger, its signatures."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin import Outcome, Run, hookimpl
from bf_plugin.plugins import hookspecs
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.defaults import NAMES
from bf_plugin.plugins.guards import HOOKS, implementations, new_manager
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.plugins.toolbox import Toolbox
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import (
    Deployment,
    Gate,
    assert_events,
    call,
    check_plugin,
    new_call,
    new_draft,
    new_outcome,
    new_run,
    shown,
)
from bf_plugin.testing.contexts import Contexts
from bf_plugin.values import Delta, ToolOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-hooks.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {PAGE[: match.start()].count("\n") + 1: match[1] for match in PYTHON.finditer(PAGE)}
"""Every example of the page, by the line it begins in."""

PLUGINS = {
    line: source
    for line, source in EXAMPLES.items()
    if not re.search(r"^def (create_engine|create_messenger|test_)", source, re.MULTILINE)
}
"""Those that are a plugin; the others are an engine, a messenger and tests."""


def executed(source: str) -> ModuleType:
    """Run an example as a module of its own."""
    module = ModuleType("example")
    exec(compile(source, "example", "exec", dont_inherit=True), module.__dict__)
    return module


def plugin_in(module: ModuleType) -> Any:
    """Return what `mount` would be given of an example: its factory, its toolbox, its class, or the module itself."""
    found = [thing for thing in vars(module).values() if isinstance(thing, Toolbox)]
    manager = new_manager()
    classes = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and thing.__module__ == "example" and implementations(manager, thing)
    ]
    return getattr(module, "create", None) or (found or classes or [module])[0]


def example(word: str) -> str:
    """Return the one example with this word."""
    (source,) = (source for source in EXAMPLES.values() if word in source)
    return source


@pytest.fixture
def workers() -> Iterator[Workers]:
    """One thread."""
    pool = Workers("hooks", limit=1)
    yield pool
    pool.close()


def call_all(calls: HookCalls) -> None:
    """Call each hook once, strictly: failures of the telling ones are logged as errors, which the caller checks."""
    calls.before_run(new_draft())

    async def on_loop() -> None:
        await calls.apply_delta(new_run(), Delta("text", final=True))
        await calls.on_tool_call(new_run(), new_call("add", {"a": 1, "b": 2}))
        calls.on_stop(new_run(), "stop")
        await calls.on_end(new_run(), new_outcome())

    asyncio.run(on_loop())


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_on_the_page_with_its_signature(hook: str) -> None:
    """The heading is the exact signature, and its section has an example that implements the hook."""
    heading = f"### {hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")
    assert f"\n{heading}\n" in PAGE
    section = PAGE.split(f"\n{heading}\n")[1].split("\n##")[0]
    assert f"\ndef {hook}(" in section


@pytest.mark.parametrize("line", PLUGINS)
def test_every_plugin_of_the_page_works_and_keeps_the_rules(line: int, workers: Workers, caplog: Any) -> None:
    """Each is complete: it loads, its hooks can be called without a failure, and `check_plugin` has no objection."""
    thing = plugin_in(executed(PLUGINS[line]))
    with Contexts() as contexts:
        plugins = load_plugins([thing], new_context=contexts.new)
        assert [report.problem for report in plugins.reports if report.status == "failed"] == []
        call_all(HookCalls(plugins.manager, workers))
        contexts.loop.run(plugins.aclose()).result(10)
        plugins.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    check_plugin(thing, texts=["Rosebud", "ß"])


def test_the_page_has_examples() -> None:
    """The pattern still finds them: each hook, wrappers, tools, memory, stops, threads, store, loop, factories."""
    assert len(PLUGINS) >= 19
    assert len(EXAMPLES) == len(PLUGINS) + 3


def test_the_stops_of_the_page_end_runs(scripted: Callable[..., Deployment]) -> None:
    """From on_delta and from on_tool_call: what end says, what is shown, who is told."""
    told: list[str] = []

    class Witness:
        @hookimpl
        def on_stop(self, run: Run) -> None:
            told.append("on_stop")

        @hookimpl
        def on_end(self, run: Run, outcome: Outcome) -> None:
            told.append(f"on_end {outcome.status} {outcome.finish_reason}")

    plugins = [executed(example("hand_over_to_a_person")), Witness()]
    shown_first, for_ever = Gate(), Gate()
    long = ["a" * 15_000, shown_first, "b" * 15_000, for_ever]
    deployed = scripted(long, [call("hand_over_to_a_person")], plugins=plugins)

    run = deployed.start()
    deployed.wait_for_text(run, "a" * 15_000)
    shown_first.release()
    assert_events(deployed.events(run), "threadInfo delta+ end", text="a" * 15_000, finish_reason="length")
    handed = deployed.events(deployed.start())
    assert_events(handed, "threadInfo function_call end", text="", finish_reason="stop")
    deployed.gateway.wait_for(lambda: len(told) == 2)
    assert sorted(told) == ["on_end completed length", "on_end completed stop"]
    assert len(deployed.engine.cancelled) == 1


def test_the_engine_of_the_page_answers(install: Callable[..., None], deploy: Callable[..., Deployment]) -> None:
    """Installed under its entry point it is `payload.provider`; it goes on in a thread, and keeps the port."""
    assert 'parrot = "bf_hook_parrot:create_engine"' in PAGE
    install(
        "bf_hook_parrot",
        example("create_engine"),
        requires="bf_plugin>=0.1,<1",
        engine="parrot = bf_hook_parrot:create_engine",
    )
    deployed = deploy()

    run = deployed.start("Polly wants a cracker", provider="parrot")

    assert_events(deployed.events(run), "threadInfo delta+ end", text="Polly wants a cracker", finish_reason="stop")
    again = deployed.start("and tea", provider="parrot", thread_id=run["threadId"])
    assert_events(deployed.events(again), text="and tea")
    image = [{"type": "image_url", "image_url": {"url": "https://example.com/parrot.png"}}]
    refused = deployed.body(provider="parrot", messages=[{"role": "user", "content": image}])
    assert "repeats text only" in deployed.refused(400, refused)["message"]
    schema = deployed.body(provider="parrot", response_format={"type": "json_object"})
    assert list(deployed.refused(400, schema)["errors"]) == ["payload.response_format"]
    tool = {"type": "function", "function": {"name": "fly", "parameters": {}}}
    warned = deployed.start("Fly", provider="parrot", tools=[tool])
    assert warned["warnings"] == ["payload.tools is ignored: a parrot has no hands"]
    assert_events(deployed.events(warned), text="Fly")
    check_plugin("bf_hook_parrot")


def test_the_messenger_of_the_page_delivers(
    install: Callable[..., None], deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    """Installed under its entry point it serves URLs of its scheme; a folder that is not there is said."""
    assert 'spool = "bf_hook_spool:create_messenger"' in PAGE
    install(
        "bf_hook_spool",
        example("create_messenger"),
        requires="bf_plugin>=0.1,<1",
        messenger="spool = bf_hook_spool:create_messenger",
    )
    folder = tmp_path / "messages"
    folder.mkdir()
    deployed = deploy(messaging_url=f"spool://{folder}", api_keys="BFAPI_demo")
    deployed.provider.script("Hello", "Hello")

    run = deployed.start()

    deployed.gateway.wait_for(lambda: [event for event in spooled(folder) if event["type"] == "end"])
    assert_events(sorted(spooled(folder), key=lambda event: event["seq"]), "threadInfo delta+ end", text="Hello")
    shutil.rmtree(folder)
    lost = deployed.start()
    address = f"/runs/{lost['runId']}?threadId={lost['threadId']}"
    deployed.gateway.wait_for(lambda: deployed.get(address).json()["status"] == "failed")
    assert deployed.get(address).json()["error"]["code"] == "delivery_failed"
    assert run["runId"] != lost["runId"]
    check_plugin("bf_hook_spool")


def spooled(folder: Path) -> list[dict[str, Any]]:
    """Return the events in a folder of messages, in no order."""
    bodies = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    return [action["options"] for body in bodies for action in body["message"]["actions"]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("RosebudR *", max_size=9), max_size=8))
def test_the_masking_example_masks_however_text_is_cut(pieces: list[str]) -> None:
    """What the page teaches about held-back text is right."""
    assert shown(executed(example("SECRET")).on_delta, *pieces) == "".join(pieces).replace("Rosebud", "*******")


def test_bf_tools_of_the_page_is_read(workers: Workers) -> None:
    """The example that tells how its tool wants to be called is understood."""
    calls = HookCalls(load_plugins([executed(example("def bf_tools"))]).manager, workers)
    assert calls.tool_options("stock_of") == ToolOptions(timeout=2.5, idempotent=True)


def test_the_page_names_the_defaults() -> None:
    """Operators who disable one must know its name."""
    assert [name for name in NAMES if f"`{name}`" not in PAGE] == []
