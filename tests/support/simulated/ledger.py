"""Everything that happened, and what must never happen. Rules are checked when something is committed, sent or asked.

What breaks one is noted in `violations`: whoever did it may swallow an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from bf_plugin.gateway import events
from bf_plugin.items import Item
from bf_plugin.journal import Journal
from bf_plugin.journal.tables import calls, items, messages, runs, steps
from bf_plugin.run.ticket import Ticket
from bf_plugin.run.toolcalls import UNKNOWN_OUTCOME
from bf_plugin.values import Outcome
from simulated.driving import Driver
from simulated.gateway import Gateway, Sending
from simulated.provider import Response
from simulated.tools import Invocation
from simulated.writer import Write

UNDER_WAY = ("starting", "active", "ending")
_UNFENCED = ("RunStore.set_usage", "RunStore.set_told")
"""What a driver may still write of a run that has ended: neither starts nor changes anything of it."""


@dataclass(slots=True)
class Start:
    """A start as its caller knows it."""

    run_id: str
    thread_id: str
    user: str
    stream: bool
    owner: str
    ticket: Ticket
    decided: bool = False
    heard: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A sealed message."""

    body: bytes
    token: bytes
    epoch: int


@dataclass(slots=True)
class Said:
    """What a run has said, by its sealed messages."""

    messages: list[Message] = field(default_factory=list)
    seq: int = 0
    offset: int = 0
    text: str = ""
    asked: int = 0
    ended: bool = False
    decided_at: int | None = None
    given_up: bool = False
    told: int = 0


class Ledger:
    """Sees each commit, each message, each question to the model. `responses` are the provider's, by id."""

    def __init__(self, journal: Journal, gateway: Gateway, responses: Mapping[str, Response], *, guarded: bool) -> None:
        self.violations: list[str] = []
        self.runs: dict[str, Any] = {}
        self.calls: dict[tuple[str, int, int], Any] = {}
        self.said: dict[str, Said] = {}
        self.starts: dict[str, Start] = {}
        self.pages: dict[str, str] = {}
        self._journal = journal
        self._gateway = gateway
        self._responses = responses
        self._handles: dict[tuple[str, int], bytes | None] = {}
        self._named: dict[tuple[str, int], str] = {}
        self._guarded = guarded
        self._invoked: list[Invocation] = []
        self._not_run: set[str] = set()

    def blame(self, what: str) -> None:
        """Note that a rule was broken."""
        self.violations.append(what)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.blame(what)

    # commits

    def is_stale(self, write: Write) -> bool:
        """Tell whether a write is by a driver that has lost its run, so that it must change nothing."""
        return write.name not in _UNFENCED and any(map(self._is_late, write.drivers))

    def _is_late(self, driver: Driver) -> bool:
        run = self.runs.get(driver.run_id)
        return run is not None and run.epoch != driver.epoch

    def commit(self, writes: list[Write], commit: Callable[[], None]) -> None:
        """Call `commit`, and look at what that did."""
        by = [driver for write in writes if self.is_stale(write) for driver in write.drivers]
        stale = {driver.run_id for driver in by if self._is_late(driver)}
        present = {driver.run_id for driver in by if not self._is_late(driver)}
        before = {run_id: self._everything(run_id) for run_id in stale - present}
        commit()
        self.look()
        for run_id, rows in before.items():
            names = ", ".join(write.name for write in writes)
            self.expect(self._everything(run_id) == rows, f"a driver that had lost its run wrote: {names}")

    def look(self) -> None:
        """Compare the journal with what it was."""
        run_rows, step_rows, message_rows, call_rows = self._read(_news)
        for row in step_rows:
            self._look_at_step(row)
        before, self.runs = self.runs, {row.id: row for row in run_rows}
        for row in message_rows:
            self._look_at_message(row)
        for run_id, row in self.runs.items():
            self._look_at_run(before.get(run_id), row)
        for run_id in before.keys() - self.runs.keys():
            self.expect(run_id not in self.said or not self._sent(run_id), "a run was taken back that pages know of")
        for row in call_rows:
            self._look_at_call(row)
        busy = [row.thread_id for row in run_rows if row.state in UNDER_WAY]
        self.expect(len(set(busy)) == len(busy), "two runs under way in one thread")

    def _read(self, query: Callable[[Connection], Any]) -> Any:
        return self._journal.overview.read(query)

    def _everything(self, run_id: str) -> Any:
        """Return all rows of a run."""
        tables = (select(table).where(table.c.run_id == run_id) for table in (messages, steps, calls, items))
        queries = [select(runs).where(runs.c.id == run_id), *tables]
        return self._read(lambda connection: [connection.execute(query).all() for query in queries])

    def _look_at_run(self, before: Any, now: Any) -> None:
        said = self.said.setdefault(now.id, Said())
        if now.outcome is not None and said.decided_at is None:
            said.decided_at = len(said.messages)
        if before is None:
            return
        if before.outcome is not None:
            same = (before.outcome, before.finish_reason) == (now.outcome, now.finish_reason)
            self.expect(same, f"a second outcome: {before.outcome}, then {now.outcome}")
        self.expect(now.epoch >= before.epoch, "an epoch went back")
        self.expect(before.state != "ended" or now.state == "ended", "a run came back from its end")
        self.expect(before.owner == now.owner or now.epoch > before.epoch, "a run changed hands within an epoch")
        if now.state == "ended":
            self.expect(said.ended, "a run has ended without `end`")
            self.expect(now.outcome is not None, "a run has ended without an outcome")
            self.expect(now.secrets_sealed is None, "keys outlived their run")

    def _look_at_step(self, row: Any) -> None:
        place = row.run_id, row.number
        if row.handle_sealed != self._handles.get(place):
            self._handles[place] = row.handle_sealed
            self._named.pop(place, None)
            if row.handle_sealed is not None:
                self._named[place] = self._journal.vault.open(row.handle_sealed)["response_id"]

    def _look_at_call(self, row: Any) -> None:
        place = (row.run_id, row.step, row.position)
        before, self.calls[place] = self.calls.get(place), row
        if before is not None and before.state == "done":
            self.expect(before.result_sealed == row.result_sealed, f"the output of {row.name} changed")
        if before is not None and before.tool_call_id is not None:
            self.expect(before.tool_call_id == row.tool_call_id, "a page's call changed its id")

    def _look_at_message(self, row: Any) -> None:
        said = self.said.setdefault(row.run_id, Said())
        said.given_up |= row.state == "unsent"
        if row.number <= len(said.messages):
            self.expect(said.messages[row.number - 1].token == row.data_sealed, "a sealed message was changed")
            return
        self.expect(row.number == len(said.messages) + 1, "a message number was left out")
        body, _ = self._journal.vault.box(row.run_id).open(bytes(row.data_sealed), row.number)
        found = events.events_in(body)
        seqs = [event["seq"] for event in found]
        self.expect(seqs == list(range(said.seq + 1, said.seq + 1 + len(found))), f"seqs {seqs} after {said.seq}")
        self.expect(not said.ended, "something was sealed behind `end`")
        for event in found:
            self._look_at_event(row.run_id, said, event)
        for tool_call_id in events.tool_calls_in(body):
            self.expect(tool_call_id not in self.pages, "a page was asked twice under one id")
            self.pages[tool_call_id] = row.run_id
            self.expect(said.decided_at is None, "a page was asked after the outcome")
        self.expect(row.end_offset == said.offset, "end_offset is not where the text ends")
        said.messages.append(Message(bytes(body), row.data_sealed, self.runs[row.run_id].epoch))

    def _look_at_event(self, run_id: str, said: Said, event: dict[str, Any]) -> None:
        kind, run = event["type"], self.runs[run_id]
        said.seq += 1
        self.expect(event["runId"] == run_id and event["threadId"] == run.thread_id, "an event of another run")
        self.expect((kind == "threadInfo") == (said.seq == 1), "threadInfo is not first, or not alone")
        if kind == "delta":
            self.expect(event["content"] != "" and event["offset"] == said.offset, "a delta is in the wrong place")
            said.text += event["content"]
            said.offset += len(event["content"].encode("utf-16-le")) // 2
            self.expect(self.explains(run_id, said.text), f"nobody said {said.text!r}")
        if kind == "function_call":
            said.asked += 1
        if kind in ("delta", "function_call"):
            self.expect(said.decided_at is None, f"a {kind} was sealed after the outcome")
        if kind == "end":
            said.ended = True
            self.expect(event["finish_reason"] == run.finish_reason, "`end` does not say what was decided")
        if kind == "error":
            self.expect(event["error"]["code"] not in ("internal_error", "journal_failed"), f"a bug: {event['error']}")

    def _shown(self, response: Response) -> str:
        """Return a response's text as plugins leave it."""
        return response.text.upper() if self._guarded else response.text

    def explains(self, run_id: str, text: str) -> bool:
        """Tell whether `text` is what the model said in a run, from its beginning, as plugins leave it."""
        return self._whole(run_id).startswith(text)

    def _whole(self, run_id: str) -> str:
        """Return what the model has said in a run: in the responses on record, one for each step."""
        named = sorted((step, name) for (run, step), name in self._named.items() if run == run_id)
        return "".join(self._shown(self._responses[name]) for _, name in named)

    # messages

    def sending(self, sending: Sending) -> None:
        """Look at a message that is about to be sent."""
        run_id, epoch = sending.driver
        said, start = self.said[run_id], self.starts[run_id]
        numbers = [number for number, message in enumerate(said.messages) if message.body == sending.body]
        if not numbers:
            return self.blame("a message was sent before it was committed")
        (number,) = numbers
        self.expect(said.messages[number].epoch <= epoch, "a driver sent what its successor sealed")
        self.expect(start.stream, "a polling run sent something")
        self.expect(epoch > 1 or start.decided, "an event was sent before the start was answered")
        self.expect(not start.refused, "a refused start sent something")
        missing = [one for one in said.messages[:number] if one.body not in self._gateway.arrivals]
        self.expect(not missing, "a message was sent that leaves a hole before it")
        mine = [other for other in self._gateway.flying if other.driver == sending.driver and other.waits]
        self.expect(not mine, "two messages of one run in flight")
        return None

    def _sent(self, run_id: str) -> bool:
        bodies = [message.body for message in self.said[run_id].messages]
        return any(body in self._gateway.arrivals for body in bodies)

    # tools

    def invoked(self, invocation: Invocation) -> None:
        """Look at a tool that begins to work."""
        run_id, _, call_id = invocation.key.rpartition(":")
        row = next((row for row in self.calls.values() if (row.run_id, row.call_id) == (run_id, call_id)), None)
        if row is None or row.state == "pending":
            return self.blame("a tool was run before that was on record")
        before = sum(other.key == invocation.key for other in self._invoked)
        lost = invocation.driver is None or self.runs[run_id].epoch != invocation.driver.epoch
        self.expect(row.state != "done" or lost, f"{invocation.name} was run again after it had finished")
        self.expect(before == 0 or invocation.name == "look", f"{invocation.name} was run again")
        self.expect(invocation.key not in self._not_run, "a tool was run though the model was told that it was not")
        self._invoked.append(invocation)
        return None

    def output_of(self, run_id: str, step: int, position: int) -> Any:
        """Return the output of a call as it is on record, None without one."""
        return self._journal.vault.open(self.calls[run_id, step, position].result_sealed)

    def told(self, run_id: str, outcome: Outcome) -> None:
        """Look at what plugins hear of a run's end."""
        run, said = self.runs[run_id], self.said[run_id]
        said.told += 1
        same = (outcome.status, outcome.finish_reason) == (run.outcome, run.finish_reason)
        self.expect(same and outcome.text == said.text, "plugins were told of another end")

    # the model

    def check_context(self, run_id: str, context: Sequence[Item]) -> None:
        """Raise AssertionError unless the model is shown the thread as it is."""
        if self.runs[run_id].outcome is not None:
            return  # stopped while it asked: what it is answered is nobody's
        thread_id = self.runs[run_id].thread_id
        earlier = [start for start in self.starts.values() if start.thread_id == thread_id]
        shown = [start for start in earlier if self._came_up(start.run_id)]
        assert [start.run_id for start in shown][-1:] == [run_id], "the model is asked in the name of another run"
        portions = _portions(context)
        users = [user for user, _ in portions]
        assert users == [start.user for start in shown], f"the model is shown {users}"
        for start, (_, portion) in zip(shown, portions, strict=True):
            self._check_portion(start.run_id, portion)

    def _came_up(self, run_id: str) -> bool:
        return run_id in self.runs and self.runs[run_id].started_at is not None

    def _check_portion(self, run_id: str, portion: Sequence[Any]) -> None:
        if not self._guarded:  # what a plugin holds back at the end of one step shows in the next
            text = "".join(item["content"][0]["text"] for item in portion if item["type"] == "message")
            page = self.said[run_id].text
            assert text.startswith(page), f"the page saw {page!r}, the model is shown {text!r}"
            assert self.explains(run_id, text), f"the model is shown {text!r}, which it did not say"
        asked = [item["call_id"] for item in portion if item["type"] == "function_call"]
        answered = [item["call_id"] for item in portion if item["type"] == "function_output"]
        assert sorted(asked) == sorted(answered), f"calls {asked} are answered by {answered}"
        assert len(set(asked)) == len(asked), f"calls {asked} came twice"
        for item in portion:
            if item["type"] == "function_output":
                self._check_output(run_id, item["call_id"], item["output"])

    def _check_output(self, run_id: str, call_id: str, output: str) -> None:
        (row,) = (row for row in self.calls.values() if (row.run_id, row.call_id) == (run_id, call_id))
        key = f"{run_id}:{call_id}"
        if row.state == "done":
            assert output == self._journal.vault.open(row.result_sealed), f"{row.name} did not answer {output!r}"
        elif row.state == "started":
            assert output == UNKNOWN_OUTCOME, f"{row.name} had started, the model is told {output!r}"
        if output.startswith("Not run"):
            assert not any(invocation.key == key for invocation in self._invoked), f"{row.name} was run"
            self._not_run.add(key)

    # the end

    def check_end(self) -> None:
        """Note what must not be left when everything has come to rest."""
        for run_id, run in self.runs.items():
            said, start = self.said[run_id], self.starts[run_id]
            self.expect(run.state == "ended" and run.told == 1, f"a run is stuck: {run.state}, {run.outcome}")
            self.expect(said.told >= 1 and (said.told == 1 or run.epoch > 1), f"plugins were told {said.told} times")
            if run.outcome == "completed":
                whole = self._whole(run_id)
                self.expect(said.text == whole, f"the page shows {said.text!r} of {whole!r}")
            missing = [one for one in said.messages if one.body not in self._gateway.arrivals]
            self.expect(not missing or not start.stream or said.given_up, "a message did not arrive")


_NEWS = (
    select(runs).order_by(runs.c.created_at, runs.c.id),
    select(steps),
    select(messages).order_by(messages.c.run_id, messages.c.number),
    select(calls),
)


def _news(connection: Connection) -> list[Sequence[Any]]:
    return [connection.execute(query).all() for query in _NEWS]


def _portions(context: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Cut a conversation at what users said."""
    portions: list[tuple[str, list[Any]]] = []
    for item in context:
        if item["type"] == "message" and item["role"] == "user":
            portions.append((item["content"][0]["text"], []))
        else:
            portions[-1][1].append(item)
    return portions
