"""The handler as BetterForms named actions: `python -m bf_plugin.browser.named_actions` writes `named-actions.json`.

Action names and keys are those of the vendor's public pages (docs.klai.studio, "Actions Processor"): `function` with
JavaScript that sees `action` and `model`; `runUtilityHook`; `assistantStop`; `llmToolCallResponse`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bf_plugin.browser import handler_source

Action = dict[str, Any]

_CONNECT = """
const fresh = { text: "", status: "idle", activity: [], error: null };
const state = (model.assistant = { threadId: null, runId: null, ...model.assistant, ...fresh });
globalThis.bfAssistant = new BFAssistant.Assistant({
  onThread: ({ threadId, runId }) => { Object.assign(state, { threadId, runId, status: "running" }); },
  onText: (text) => { state.text = text; },
  onTool: (functions) => { state.activity = functions.map(({ name, userMessage }) => userMessage || name); },
  onError: ({ message }) => { state.error = message; },
  onEnd: ({ finishReason }) => { Object.assign(state, { status: finishReason, activity: [] }); },
});
"""
"""Joins the handler to the page: everything it learns is written to `model.assistant`."""

_ASK = """
Object.assign(model.assistant, { text: "", error: null, status: "starting" });
action.options = { ...action.options, type: "assistantStart", threadId: model.assistant.threadId || null };
"""

_STOP = "action.options = { threadId: model.assistant.threadId, runId: model.assistant.runId };"


def build(handler: str) -> dict[str, dict[str, list[Action]]]:
    """Return the named actions with `handler`, the text of handler.js, embedded as it is."""
    return {
        "namedActions": {
            "onFormLoad": [
                {"action": "function", "name": "defineAssistant", "function": handler},
                {"action": "function", "name": "connectAssistant", "function": _CONNECT.strip()},
            ],
            "handleAssistantResponse": [
                {
                    "action": "function",
                    "name": "handleAssistantEvent",
                    "function": "globalThis.bfAssistant?.handle(action.options);",
                }
            ],
            "assistantAsk": [
                {"action": "runUtilityHook", "function": _ASK.strip(), "options": {"type": "assistantStart"}},
            ],
            "assistantCancel": [{"action": "assistantStop", "function": _STOP, "options": {}}],
            "assistantNewThread": [
                {
                    "action": "function",
                    "name": "forgetThread",
                    "function": 'Object.assign(model.assistant, { threadId: null, runId: null, text: "" });',
                }
            ],
            "setTheme": [
                {
                    "action": "function",
                    "name": "exampleOfABrowserTool",
                    "function": "model.theme = action.options.colour;",
                },
                {"action": "llmToolCallResponse", "options": {"success": True, "message": "The theme was changed."}},
            ],
        }
    }


def main() -> None:
    """Write `named-actions.json` beside this module."""
    path = Path(__file__).with_name("named-actions.json")
    path.write_text(json.dumps(build(handler_source()), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
