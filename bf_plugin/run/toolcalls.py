"""The tool calls of a step: announced together, run in parallel, each answered exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import msgspec

from bf_plugin.bodies import uitools
from bf_plugin.gateway import events
from bf_plugin.items import FunctionCall, FunctionOutput, FunctionTool
from bf_plugin.journal.records import CallKey, CallRecord
from bf_plugin.journal.states import PENDING, STARTED
from bf_plugin.journal.steps import StepStore
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.composer import Composer
from bf_plugin.run.outbox import Outbox
from bf_plugin.runtime.ids import new_tool_call_id
from bf_plugin.settings import Settings
from bf_plugin.values import Run, ToolCall, ToolOptions

UNKNOWN_OUTCOME = "Stopped before the result was known. It may have taken effect: do not repeat it without asking."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call as it will be made: for a page when `tool_call_id` is set, unanswerable when `problem` is.

    `before` is what an earlier driver of the run left of it, None if that had not begun with it.
    """

    key: CallKey
    id: str
    name: str
    arguments: Mapping[str, Any] = field(repr=False)
    tool: FunctionTool | None
    problem: str | None = None
    tool_call_id: str | None = None
    deadline: float | None = None
    before: CallRecord | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class ToolCalls:
    """Runs the calls of one run, on the loop."""

    run: Run
    epoch: int
    steps: StepStore
    hooks: HookCalls
    composer: Composer
    outbox: Outbox
    settings: Settings

    def __post_init__(self) -> None:
        self._tools = {tool["name"]: tool for tool in self.run.tools if tool["type"] == "function"}
        self._answered: dict[str, asyncio.Event] = {}

    def answered(self, tool_call_id: str) -> None:
        """Wake the call that a page has answered; the journal has the answer."""
        if waiting := self._answered.get(tool_call_id):
            waiting.set()

    async def run_all(
        self, step: int, calls: Sequence[FunctionCall], before: Sequence[CallRecord] = ()
    ) -> list[FunctionOutput]:
        """Announce and run the calls of a step; return their outputs in the model's order.

        `before` is what an earlier driver left of them. A call that is done is not run again, one that had started
        only if its tool is idempotent. Raises StopRun from a hook, Fenced and RunEnded from the journal; calls that
        still run then are left.
        """
        paired = enumerate(zip_longest(calls, before))
        prepared = [self._prepare((step, position), call, record) for position, (call, record) in paired]
        for call in prepared:
            if call.tool_call_id is not None:
                self._answered[call.tool_call_id] = asyncio.Event()
                await self._start(call)
        self._announce(step, [(call.name, _user_message(call.arguments), call.tool_call_id) for call in prepared])
        tasks = [asyncio.ensure_future(self._answer(call)) for call in prepared]
        try:
            outputs = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [output_item(call.id, output) for call, output in zip(prepared, outputs, strict=True)]

    def announce(self, step: int, calls: Sequence[CallRecord]) -> None:
        """Announce the calls of a step of an earlier driver, if that driver has not done it."""
        parsed = [(call, parse_arguments(call.arguments)[0]) for call in calls]
        self._announce(step, [(call.name, _user_message(arguments), call.tool_call_id) for call, arguments in parsed])

    def _announce(self, step: int, calls: Sequence[tuple[str, str | None, str | None]]) -> None:
        if self.composer.answers < step:
            self.outbox.event(events.function_call(calls))

    def _prepare(self, key: CallKey, call: FunctionCall, before: CallRecord | None) -> _Call:
        name, tool = call["name"], self._tools.get(call["name"])
        before = None if before is not None and before.state == PENDING else before
        arguments: Mapping[str, Any]
        tool_call_id = deadline = None
        if uitools.is_ui(name) and tool is not None and self.run.stream:
            try:
                arguments, problem = uitools.validate_ui_arguments(call["arguments"], tool["parameters"]), None
            except uitools.InvalidArguments as error:
                arguments, problem = {}, f"Error: bad arguments for {name}: {error}"
            else:
                tool_call_id, deadline = new_tool_call_id(), time.time() + self.settings.ui_tool_timeout
                if before is not None:  # the page was asked under the id on record
                    tool_call_id, deadline = before.tool_call_id, before.deadline
        else:
            arguments, problem = parse_arguments(call["arguments"])
        return _Call(
            key=key,
            id=call["call_id"],
            name=name,
            arguments=arguments,
            tool=tool,
            problem=problem,
            tool_call_id=tool_call_id,
            deadline=deadline,
            before=before,
        )

    async def _answer(self, call: _Call) -> str:
        if call.before is not None and call.before.output is not None:
            return call.before.output
        if call.tool_call_id is not None:
            return await self._ask_page(call, call.tool_call_id)
        options = self.hooks.tool_options(call.name)
        if call.before is not None and not options.idempotent:
            return await self._finish(call, UNKNOWN_OUTCOME)
        await self._start(call)
        output = call.problem or await self._ask_plugins(call, options)
        return await self._finish(call, output)

    async def _ask_plugins(self, call: _Call, options: ToolOptions) -> str:
        asked = ToolCall(
            id=call.id,
            name=call.name,
            arguments=call.arguments,
            idempotency_key=f"{self.run.id}:{call.id}",
            tool=call.tool,
            timeout=options.timeout or self.settings.tool_timeout,
        )
        result = await self.hooks.on_tool_call(self.run, asked)
        return str(result.output)

    async def _ask_page(self, call: _Call, tool_call_id: str) -> str:
        keep = self.settings.ui_tool_keep_prefix
        if not self.composer.has_asked(tool_call_id):
            self.outbox.action(uitools.ui_action(call.name, call.arguments, tool_call_id, keep_prefix=keep))
        left = (call.deadline or 0.0) - time.time()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answered[tool_call_id].wait(), max(left, 0.0))
        # The journal decides: an answer on record counts, this text only without one.
        seconds = self.settings.ui_tool_timeout
        return await self._finish(call, f"Error: the page did not answer {call.name} within {seconds:g} seconds.")

    async def _start(self, call: _Call) -> None:
        started = self.steps.start_call(
            self.run.id, self.epoch, call.key, tool_call_id=call.tool_call_id, deadline=call.deadline
        )
        await asyncio.wrap_future(started)

    async def _finish(self, call: _Call, output: str) -> str:
        return await asyncio.wrap_future(self.steps.finish_call(self.run.id, self.epoch, call.key, output))


def _user_message(arguments: Mapping[str, Any]) -> str | None:
    """Return what the model wants the user to read while the call runs."""
    message = arguments.get("userMessage")
    return message if isinstance(message, str) else None


def parse_arguments(text: str) -> tuple[dict[str, Any], str | None]:
    """Return the arguments the model wrote, or what to tell it about them."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return {}, f"Error: the arguments are not JSON: {error}"
    if not isinstance(value, dict):
        return {}, "Error: the arguments must be a JSON object."
    return value, None


def output_item(call_id: str, output: str) -> FunctionOutput:
    """Return the item that answers a call."""
    return {"type": "function_output", "call_id": call_id, "output": output}


def cut_output(call: CallRecord) -> FunctionOutput:
    """Return the output that the next run gives the model for a call of a run that was cut off."""
    if call.output is not None:
        return output_item(call.call_id, call.output)
    text = UNKNOWN_OUTCOME if call.state == STARTED else "Not run: the run was stopped first."
    return output_item(call.call_id, text)
