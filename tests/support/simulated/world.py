"""A deployment: processes that come and go, the gateway, the provider, tools, pages and callers."""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Literal

import pytest

from bf_plugin.bodies import StopRequest, ToolAnswer, parse_start
from bf_plugin.bodies.uitools import is_ui
from bf_plugin.dispatch import port
from bf_plugin.errors import ProviderError, RequestError
from bf_plugin.gateway.apps import App
from bf_plugin.journal import Journal
from bf_plugin.runtime import ids
from bf_plugin.settings import Settings
from bf_plugin.usecases.start import Origin
from simulated.clock import Clock
from simulated.driving import NamedDrive
from simulated.gateway import Gateway, Wire
from simulated.ledger import Ledger, Start
from simulated.process import Process, Surroundings, Writing, hooks
from simulated.provider import Knock, Line, Provider
from simulated.tools import DEFINITIONS, Tools

Policy = Literal["reject", "enqueue", "interrupt"]

APP = App(id="app", api_key="BFAPI_simulated")
_MANY = 3_000
_MOMENT = 0.006
"""Seconds that count as at once: a group of writes waits a little for the next."""


class World:
    """Everything, driven by rules: each of its methods is one thing that may happen. `close` it."""

    def __init__(self, open_journal: Callable[[], Journal], *, policy: Policy, guarded: bool, coalesce_ms: int) -> None:
        self._patches = pytest.MonkeyPatch()
        self.clock = Clock()
        self._patches.setattr(time, "time", self.clock.time)
        self._patches.setattr(ids, "secrets", _Counted())
        self._patches.setattr(port, "Drive", NamedDrive)
        self.policy = policy
        self._watched = open_journal()
        self.gateway = Gateway()
        self.provider = Provider()
        self.ledger = Ledger(self._watched, self.gateway, self.provider.responses, guarded=guarded)
        self.tools = Tools(self.ledger.invoked)
        self._around = Surroundings(
            clock=self.clock,
            settings=Settings(thread_busy=policy, coalesce_ms=coalesce_ms, messaging_url="http://gateway"),
            engine=Line(self.provider, self.ledger.check_context, self.ledger.blame),
            messenger=Wire(self.gateway, self.ledger.sending),
            hooks=hooks(self.tools, self.ledger.told, guarded=guarded),
            ledger=self.ledger,
            is_alive=self._is_alive,
            wake=self._wake,
            open_journal=open_journal,
        )
        self.processes: list[Process] = []
        self.stops: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._alarm = Alarm(self.ledger.blame)

    def close(self) -> None:
        for process in self.processes:
            if process.alive:
                process.die()
        self._watched.close()
        self._alarm.close()
        self._patches.undo()

    # processes

    @property
    def ready(self) -> list[Process]:
        """The processes that do not stand still."""
        return [process for process in self.processes if not process.stands]

    @property
    def busy(self) -> list[Process]:
        """Those of them that drive runs."""
        return [process for process in self.ready if process.dispatcher.active()]

    @property
    def standing(self) -> list[Process]:
        return [process for process in self.processes if process.alive and process.stands]

    def boot(self, *, writing: Writing) -> Process:
        """Start a process; it takes what dead ones left."""
        process = Process(f"process-{len(self.processes) + 1}", self._around, writing=writing)
        self.processes.append(process)
        process.sweep()
        return process

    def _is_alive(self, owner: str) -> bool:
        return any(process.owner == owner and process.alive for process in self.processes)

    def _wake(self, owners: Collection[str]) -> None:
        for process in self.processes:
            process.woken |= process.owner in owners

    @property
    def under_way(self) -> list[Any]:
        """The runs that are not done with, as the journal has them."""
        return [run for run in self.ledger.runs.values() if not run.told]

    @property
    def stoppable(self) -> list[str]:
        """The runs that have not been asked to stop more than once, whether they are over or not."""
        return [run_id for run_id in self.ledger.starts if self.stops[run_id] < 2]

    @property
    def next_things(self) -> list[tuple[str, Any]]:
        """What is under way outside of processes, each with what may come of it."""
        asked = [call.tool_call_id for call in self.ledger.calls.values() if call.state == "started"]
        return [
            *(("tool", invocation) for invocation in self.tools.working),
            *(("message", sending) for sending in self.gateway.flying),
            *(("question", knock) for knock in self.knocks),
            *(("page", one) for one in asked if one in self.ledger.pages and self.ready),
            *(("stop", run.id) for run in self.under_way if run.outcome is None and self.ready),
            *((kind, one) for one in self.provider.open for kind in ("end", "ask", "ask", "say", "say")),
        ]

    @property
    def orphaned(self) -> list[Any]:
        """Those of them whose process is gone."""
        return [run for run in self.under_way if not self._is_alive(run.owner)]

    @property
    def unheard(self) -> list[Start]:
        """The starts that wait for an answer, at processes that could give one."""
        living = {process.owner for process in self.ready}
        return [start for start in self.ledger.starts.values() if not start.heard and start.owner in living]

    @property
    def knocks(self) -> list[Knock]:
        """The questions to the model that nobody has settled."""
        return [knock for knock in self.provider.knocks if not knock.answer.done()]

    def settle_question(self, knock: Knock, *, accept: bool) -> None:
        if accept:
            knock.answer.set_result(None)
        else:
            knock.answer.set_exception(ProviderError("no such model", status=400))

    # time

    def settle(self, rounds: int = 0) -> None:
        """Let everything happen that can happen now, or only what happens in some rounds."""
        for _ in range(rounds or _MANY):
            moved = [process.turn() for process in self.processes]
            if any(moved) or self._answer():
                continue
            seen = [process.watch() for process in self.processes]
            if not any(seen) and not self._pass_moment():
                return
        self.ledger.expect(rounds > 0, "it does not come to rest")

    def _pass_moment(self) -> bool:
        """Let the few milliseconds go by that something waits for; False if nothing does."""
        wait = min((process.loop.wait for process in self.ready), default=_MOMENT)
        if wait >= _MOMENT:
            return False
        self.clock.now += max(wait, 1e-6)
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass, from one timer to the next."""
        end = self.clock.now + seconds
        while True:
            self.settle()
            if self.clock.now >= end:
                return
            nearest = max(min((process.loop.wait for process in self.ready), default=seconds), 1e-6)
            self.clock.now = min(end, self.clock.now + nearest)

    def _answer(self) -> bool:
        """Let the gateway and the provider answer what they do not hold back, and callers hear their answers."""
        heard = self._hear()
        if not self.gateway.slow:
            for sending in list(self.gateway.flying):
                self.gateway.settle(sending, "accept")
                heard = True
        if not self.provider.slow:
            for knock in self.knocks:
                self.settle_question(knock, accept=True)
                heard = True
        return heard

    # callers

    def start(self, process: Process, thread_id: str | None, *, stream: bool) -> Start | None:
        """Start a run; None when it is refused at once, as it must be exactly if the thread is busy."""
        user = f"user {next(self._numbers)}"
        request = parse_start(_body(user, thread_id, stream=stream))
        others = self._undecided(thread_id)
        try:
            started = process.starts.start(request, APP, Origin(request_id=user, host_environ={}))
        except RequestError as error:
            due = error.code == 409 and self.policy == "reject" and others
            self.ledger.expect(bool(due), f"a start was refused: {error}")
            return None
        still = others & self._undecided(thread_id)
        self.ledger.expect(self.policy == "enqueue" or not still, "a start on a busy thread was not refused")
        start = Start(started.run_id, started.thread_id, user, stream, process.owner, started.ticket)
        started.ticket.when_answered(lambda: setattr(start, "decided", True))
        self.ledger.starts[start.run_id] = start
        return start

    def lose_patience(self, start: Start) -> None:
        """Let the caller of a start wait no longer: it counts as started then."""
        start.heard = True
        try:
            start.ticket.wait_accepted(0)
        except RequestError as error:
            if error.code != 503:  # not only this process gave the run up
                start.refused = True
                self.ledger.expect(start.run_id not in self.ledger.runs, f"a refused start exists: {error}")
        else:
            start.ticket.release()

    def stop(self, process: Process, run_id: str) -> str:
        """Ask to stop a run."""
        self.stops[run_id] += 1
        before = self.ledger.runs.get(run_id)
        thread_id = self.ledger.starts[run_id].thread_id
        status = process.stops.stop(StopRequest(thread_id=thread_id, run_id=run_id), None)
        if before is None:
            self.ledger.expect(status == "not_found", f"a stop of no run was answered {status}")
        elif before.outcome is not None:
            self.ledger.expect(status == f"already_{before.outcome}", f"a stop was answered {status}")
        elif (now := self.ledger.runs.get(run_id)) is not None:
            self.ledger.expect(status.removeprefix("already_") == now.outcome, f"a stop was answered {status}")
        return status

    def answer(self, process: Process, tool_call_id: str) -> str:
        """Answer a page's call."""
        (call,) = (call for call in self.ledger.calls.values() if call.tool_call_id == tool_call_id)
        run = self.ledger.runs[call.run_id]
        in_time = call.state == "started" and run.outcome is None and call.deadline > self.clock.now
        output = f'{{"answer":{next(self._numbers)}}}'
        status = process.stops.answer_tool(ToolAnswer(tool_call_id=tool_call_id, output=output))
        kept = self.ledger.output_of(call.run_id, call.step, call.position)
        if not in_time:
            self.ledger.expect(status == "ignored", "an answer was taken too late")
        self.ledger.expect((status == "accepted") == (kept == output), f"an answer was {status}, the output is {kept}")
        return status

    def _undecided(self, thread_id: str | None) -> set[str]:
        return {run.id for run in self.ledger.runs.values() if run.thread_id == thread_id and run.outcome is None}

    def _hear(self) -> bool:
        """Let callers hear what their starts are answered."""
        decided = [start for start in self.unheard if start.decided]
        for start in decided:
            self.lose_patience(start)
        return bool(decided)

    # the end

    def calm(self) -> None:
        """Let all that is held back go, until nothing is under way; then let every thread go on."""
        self.gateway.slow = self.provider.slow = False
        for process in self.processes:
            process.fuel = None
        self.settle()
        keeper = self.boot(writing="eager")
        for _ in range(40):
            self._let_go()
            for process in self.ready:
                process.sweep()
            self.advance(20.0)
            if not self.under_way:
                break
        self.ledger.check_end()
        gc.collect()  # now asyncio tells of tasks that failed and whose failure nobody heard of
        for thread_id in sorted({start.thread_id for start in self.ledger.starts.values()}):
            if any(run.thread_id == thread_id for run in self.ledger.runs.values()):
                self._go_on(keeper, thread_id)

    def _let_go(self) -> None:
        self.settle()
        for invocation in self.tools.working:
            self.tools.settle(invocation, "returns")
        for response in self.provider.open:
            response.end("done")
        self.settle()

    def _go_on(self, process: Process, thread_id: str) -> None:
        start = self.start(process, thread_id, stream=True)
        if start is not None:
            self._let_go()
            run = self.ledger.runs.get(start.run_id)
            self.ledger.expect(run is not None and run.outcome == "completed", f"a thread does not go on: {run}")


def _body(user: str, thread_id: str | None, *, stream: bool) -> dict[str, Any]:
    payload = {
        "provider": "scripted",
        "apiKey": "sk-simulated",
        "model": "m",
        "stream": stream,
        "messages": [{"role": "user", "content": user}],
        "tools": [tool for tool in DEFINITIONS if stream or not is_ui(tool["name"])],
        **({"thread_id": thread_id} if thread_id else {}),
    }
    return {"apiKey": APP.api_key, "channels": ["c"], "actionName": "handle", "payload": payload}


class _Counted:
    """What makes ids, in place of chance."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def token_urlsafe(self, size: int) -> str:
        return f"{next(self._numbers):028d}"


class Alarm(logging.Handler):
    """Takes for a violation what the plugin logs as an error; the rest of the log is not written."""

    def __init__(self, blame: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._blame = blame
        self._logger = logging.getLogger("bf_plugin")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self._blame(f"logged: {record.getMessage()}")

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()
