"""The default plugins, through the hooks like any other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from bf_plugin import testing
from bf_plugin.items import Tool
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.defaults import NAMES
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.runtime.workers import Workers
from bf_plugin.values import Outcome, Run, ToolCall, ToolResult, Usage

PATIENCE = 10


def new_run(*tools: Tool) -> Run:
    return testing.new_run(thread_id="thread_secret", app="shop", model="m", tools=tools)


@pytest.fixture
def hooks() -> Iterator[HookCalls]:
    """The facade over the defaults."""
    workers = Workers("hooks", limit=1)
    yield HookCalls(load_plugins().manager, workers)
    workers.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def test_the_defaults_are_there() -> None:
    """Each name is a plugin that loads."""
    reports = {report.name: report for report in load_plugins().reports if report.kind == "plugin"}
    assert [reports[name].status for name in NAMES] == ["ok"] * len(NAMES)
    assert reports["run_log"].hooks == ("on_end", "on_stop")
    assert reports["unknown_tool"].hooks == ("on_tool_call",)


@pytest.mark.parametrize(
    ("tools", "known"),
    [
        ([], "There are no other tools."),
        ([{"type": "function", "name": "add", "parameters": {}}], "The tools are: add."),
        ([{"type": "function", "name": "nonsense", "parameters": {}}], "There are no other tools."),
        (
            [
                {"type": "function", "name": "sub", "parameters": {}},
                {"type": "file_search", "vector_store_ids": []},
                {"type": "function", "name": "add", "parameters": {}},
            ],
            "The tools are: add, sub.",
        ),
    ],
)
def test_unknown_tool_tells_which_exist(hooks: HookCalls, tools: list[Tool], known: str) -> None:
    """The model can choose another one in its next step."""
    call = ToolCall(id="c", name="nonsense", arguments={}, idempotency_key="k", timeout=PATIENCE)
    result = run(hooks.on_tool_call(new_run(*tools), call))
    assert result == ToolResult(f"Error: unknown tool nonsense. {known}", is_error=True)


def test_run_log_writes_one_line_without_content(hooks: HookCalls, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a run is one line with what operators ask for, and no thread id, which is a credential."""
    caplog.set_level(logging.INFO, "bf_plugin.plugins.defaults.run_log")
    usage = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)
    ended = Outcome(
        status="failed", finish_reason="error", usage=usage, text="said", error_code="provider_error", duration=1.234
    )
    run(hooks.on_end(new_run(), ended))
    assert [record.getMessage() for record in caplog.records] == [
        (
            "run of shop ended: failed, finish_reason error, m, 0 steps, 3 + 4 tokens, 1.23 s, error provider_error"
            " [run=run_1 request=request-1]"
        )
    ]
    assert "thread_secret" not in caplog.text


def test_run_log_says_why_a_run_is_stopped(hooks: HookCalls, caplog: pytest.LogCaptureFixture) -> None:
    """The stop of a run is one line with its reason."""
    caplog.set_level(logging.INFO, "bf_plugin.plugins.defaults.run_log")

    async def stop() -> None:
        hooks.on_stop(new_run(), "deadline")
        # one worker: what is asked for next is done after the plugin was told
        await hooks.on_end(new_run(), Outcome(status="expired", finish_reason="expired", usage=Usage(), text=""))

    run(stop())
    assert caplog.records[0].getMessage() == "run of shop is being stopped: deadline [run=run_1 request=request-1]"
