"""The BetterForms named actions: the handler's own code, run as BetterForms documents it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import bf_plugin
from bf_plugin.browser import handler_source
from bf_plugin.browser.named_actions import build
from programs import program

FOLDER = Path(bf_plugin.__file__).with_name("browser")
ACTIONS = json.loads((FOLDER / "named-actions.json").read_text("utf-8"))["namedActions"]

PAGE = """
const AsyncFunction = (async () => {}).constructor;
const { actions, calls } = JSON.parse(require("node:fs").readFileSync(0, "utf-8"));
const model = {};
const dispatched = [];
// Options of the call are merged into those of each action; a `function` runs before its action does.
async function namedAction(name, options = {}) {
  for (const template of actions[name]) {
    const action = structuredClone({ ...template, options: { ...template.options, ...options } });
    if (action.function) await new AsyncFunction("action", "model", action.function)(action, model);
    if (action.action !== "function") dispatched.push({ action: action.action, options: action.options });
  }
}
(async () => {
  for (const [name, options] of calls) await namedAction(name, options);
  process.stdout.write(JSON.stringify({ model, dispatched }));
  process.exit(0);
})();
"""


def run_page(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Call named actions as the documented action processor would; return the model and what was dispatched."""
    page = subprocess.run(
        [program("node"), "-e", PAGE],
        input=json.dumps({"actions": ACTIONS, "calls": calls}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    result: dict[str, Any] = json.loads(page.stdout)
    return result


def event(seq: int, kind: str, **rest: Any) -> tuple[str, dict[str, Any]]:
    options = {"type": kind, **rest, "threadId": "thread_1", "runId": "run_1", "seq": seq}
    return "handleAssistantResponse", options


THREAD = event(1, "threadInfo", content={"assistantThreadId": "thread_1", "runId": "run_1"})
ONE = event(2, "delta", content="Hel", offset=0)
CALL = event(3, "function_call", content={"functions": [{"name": "lookUp", "userMessage": "Looking it up"}]})
TWO = event(4, "delta", content="lo", offset=3)
FAILED = event(5, "error", error={"message": "broken", "code": "x", "details": None}, content="broken")
END = event(6, "end", finish_reason="error", usage={})


def test_json_is_what_the_handler_gives() -> None:
    """The JSON file is built from handler.js; run `python -m bf_plugin.browser.named_actions` after changing that."""
    assert build(handler_source())["namedActions"] == ACTIONS


def test_json_embeds_the_handler_verbatim() -> None:
    """The JavaScript of the first action is the text of handler.js, nothing else."""
    assert ACTIONS["onFormLoad"][0]["function"] == handler_source()


def test_page_follows_a_run() -> None:
    """Events, some twice and out of order, end up in the model once."""
    calls = [("onFormLoad", {}), THREAD, ONE, ONE, TWO, CALL]
    assert run_page(*calls)["model"]["assistant"] == {
        "threadId": "thread_1",
        "runId": "run_1",
        "text": "Hello",
        "status": "running",
        "activity": ["Looking it up"],
        "error": None,
    }
    ended = run_page(*calls, FAILED, END)["model"]["assistant"]
    assert (ended["status"], ended["error"], ended["activity"]) == ("error", "broken", [])


def test_page_asks_stops_and_forgets() -> None:
    """Asking goes to the server hook with the thread, stopping names both ids, a new thread names none."""
    calls = [("onFormLoad", {}), ("assistantAsk", {"message": "Hi"}), THREAD, ("assistantCancel", {}), END]
    seen = run_page(*calls, ("assistantAsk", {"message": "More"}), ("assistantNewThread", {}), ("assistantAsk", {}))
    assert seen["dispatched"] == [
        {"action": "runUtilityHook", "options": {"type": "assistantStart", "message": "Hi", "threadId": None}},
        {"action": "assistantStop", "options": {"threadId": "thread_1", "runId": "run_1"}},
        {"action": "runUtilityHook", "options": {"type": "assistantStart", "message": "More", "threadId": "thread_1"}},
        {"action": "runUtilityHook", "options": {"type": "assistantStart", "threadId": None}},
    ]


def test_page_answers_a_browser_tool() -> None:
    """The example tool changes the model and ends in llmToolCallResponse with the call's id merged in."""
    seen = run_page(("onFormLoad", {}), ("setTheme", {"colour": "teal", "toolCallId": "tool_1"}))
    assert seen["model"]["theme"] == "teal"
    ((answer),) = seen["dispatched"]
    assert answer["action"] == "llmToolCallResponse"
    assert (answer["options"]["toolCallId"], answer["options"]["success"]) == ("tool_1", True)


def test_events_before_the_page_is_ready_are_harmless() -> None:
    """An event for a page that has not connected the handler is dropped without an exception."""
    assert run_page(ONE) == {"model": {}, "dispatched": []}
