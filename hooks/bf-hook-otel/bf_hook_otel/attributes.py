"""What spans and metrics say of a run, of a step, of a call: attributes by the names of `names`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bf_hook_otel import names
from bf_plugin import Outcome, Run, Step

if TYPE_CHECKING:
    from bf_plugin import Settings
    from bf_plugin.items import Message

Attributes = dict[str, Any]

_OPENAI = "https://api.openai.com/v1"
_PARAMETERS = {
    "temperature": names.REQUEST_TEMPERATURE,
    "top_p": names.REQUEST_TOP_P,
    "max_completion_tokens": names.REQUEST_MAX_TOKENS,
}


class Describer:
    """Describes what happens in one gateway; `named` are the apps that have a name, and so a series of their own."""

    def __init__(self, settings: Settings | None, provider_names: Mapping[str, str]) -> None:
        self.named: Collection[str] = () if settings is None else frozenset(settings.apps)
        self._provider_names = provider_names
        self._server = _server((settings.openai_base_url if settings else None) or _OPENAI)

    def model(self, run: Run) -> Attributes:
        """Return what names a run's model, for metrics too."""
        about = {
            names.PROVIDER: self._provider_names.get(run.provider, run.provider),
            names.REQUEST_MODEL: run.model,
            **(self._server if run.provider == "openai" else {}),
        }
        return {**about, names.APP: run.app} if run.app in self.named else about

    def run(self, run: Run, outcome: Outcome) -> Attributes:
        """Return what the span of a run says."""
        about = {
            names.OPERATION: names.INVOKE_AGENT,
            **self.model(run),
            names.APP: run.app,
            names.RUN_ID: run.id,
            names.REQUEST_ID: run.request_id,
            names.CONVERSATION: conversation(run.thread_id),
            names.STATUS: outcome.status,
            names.FINISH_REASONS: [outcome.finish_reason],
            **parameters(run),
            **usage(outcome),
        }
        return {**about, names.AGENT_NAME: run.app} if run.app in self.named else about

    def step(self, run: Run, step: Step, *, last: bool) -> Attributes:
        """Return what the span of a step says; one that is not the `last` ended because it asked for tools."""
        about = {
            names.OPERATION: names.CHAT,
            **self.model(run),
            names.CONVERSATION: conversation(run.thread_id),
            names.REQUEST_STREAM: True,
            names.STEP: step.number,
            **parameters(run),
            **usage(step),
        }
        if step.response_id:
            about[names.RESPONSE_ID] = step.response_id
        if step.finish_reason:
            about[names.FINISH_REASONS] = [step.finish_reason if last else "tool_calls"]
        if step.first_text_at:
            about[names.TIME_TO_FIRST_CHUNK] = step.first_text_at - step.started_at
        return about


def conversation(thread_id: str) -> str:
    """Return what names a thread outside: its id would let whoever reads traces stop its runs and read them."""
    return hashlib.sha256(b"bf_plugin conversation\0" + thread_id.encode()).hexdigest()[:32]


def parameters(run: Run) -> Attributes:
    """Return the caller's generation parameters."""
    about = {name: run.options[option] for option, name in _PARAMETERS.items() if run.options.get(option) is not None}
    kind = (run.options.get("response_format") or {}).get("type") if _is_object(run, "response_format") else None
    return {**about, names.OUTPUT_TYPE: "json" if str(kind).startswith("json") else "text"} if kind else about


def usage(of: Outcome | Step) -> Attributes:
    """Return the tokens of a run or a step, and that they are estimated where they are."""
    if not of.usage.total_tokens:
        return {}
    about = {names.INPUT_TOKENS: of.usage.prompt_tokens, names.OUTPUT_TOKENS: of.usage.completion_tokens}
    return {**about, names.ESTIMATED: True} if of.usage.estimated else about


def content(run: Run, outcome: Outcome) -> Attributes:
    """Return what was said, in the conventions' JSON."""
    about = {names.INPUT_MESSAGES: _json([_message(message) for message in run.messages])}
    if run.instructions:
        about[names.SYSTEM_INSTRUCTIONS] = _json([{"type": "text", "content": run.instructions}])
    said = {"role": "assistant", "parts": [{"type": "text", "content": outcome.text}]}
    about[names.OUTPUT_MESSAGES] = _json([{**said, "finish_reason": outcome.finish_reason}])
    return about


def text_of(value: object) -> str:
    """Return a tool's arguments or result as an attribute."""
    return value if isinstance(value, str) else _json(value)


def _message(message: Message) -> Attributes:
    parts: list[Any] = []
    for part in message["content"]:
        if part["type"] == "text":
            parts.append({"type": "text", "content": part["text"]})
        else:
            modality = "image" if part["type"] == "image" else "document"
            where = {"uri": part["url"]} if part.get("url") else {"file_id": part.get("file_id")}
            parts.append({"type": "uri" if part.get("url") else "file", "modality": modality, **where})
    return {"role": message["role"], "parts": parts}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_object(run: Run, option: str) -> bool:
    return isinstance(run.options.get(option), Mapping)


def _server(url: str) -> Attributes:
    """Return host and port of a base URL, and nothing else of it: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return {}
    return {names.SERVER_ADDRESS: parts.hostname, names.SERVER_PORT: port} if parts.hostname else {}
