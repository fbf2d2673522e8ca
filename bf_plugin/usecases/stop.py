"""What a page does to a run under way: stop it, or answer one of its tool calls."""

from __future__ import annotations

from bf_plugin.bodies import StopRequest, ToolAnswer
from bf_plugin.dispatch import Dispatcher
from bf_plugin.errors import RequestError
from bf_plugin.journal import CANCELLED, Journal, RunRecord
from bf_plugin.journal.writer import written
from bf_plugin.runtime.ids import is_ours
from bf_plugin.values import StopReason


class Stops:
    """Puts on record what ends or moves a run, and wakes the driver of it. Called in request threads."""

    def __init__(self, *, journal: Journal, dispatcher: Dispatcher) -> None:
        self._runs = journal.runs
        self._steps = journal.steps
        self._dispatcher = dispatcher

    def stop(self, request: StopRequest, app_id: str | None) -> str:
        """Stop a run; return the status the caller is told. `app_id` None: no key was sent."""
        known = is_ours(request.run_id) and is_ours(request.thread_id)
        record = self._runs.get(request.run_id, request.thread_id) if known else None
        if record is None or app_id not in (None, record.app):
            return "not_found"
        return self.cancel(record, "stop")

    def cancel(self, record: RunRecord, reason: StopReason) -> str:
        """Cancel a run, unless it has its outcome; return the status."""
        if record.outcome is not None:
            return f"already_{record.outcome}"
        ending = written(self._runs.decide(record.id, CANCELLED))
        if not ending.won:
            return f"already_{ending.status}"
        self._dispatcher.stop(record, ending, reason)
        return "cancelled"

    def answer_tool(self, answer: ToolAnswer) -> str:
        """Take a page's answer to a tool call: `accepted` when it is the first and in time, else `ignored`."""
        ours = is_ours(answer.tool_call_id)
        answered = written(self._steps.answer(answer.tool_call_id, answer.output)) if ours else None
        if answered is None:
            raise RequestError(404, "no such tool call", errors={"toolCallId": "is not known here"})
        run_id, first = answered
        if first:
            self._dispatcher.answered(run_id, answer.tool_call_id)
        return "accepted" if first else "ignored"

    def knows_tool_call(self, tool_call_id: str) -> bool:
        """Tell whether a tool call is ours; if not, its answer is for the host's own routes."""
        return is_ours(tool_call_id) and self._steps.has_call(tool_call_id)
