"""A run's life as a state machine: whatever happens, in whatever order, the promise of docs/design.md is kept.

Processes start, stand still, vanish, take runs over from each other, also from those that live and do not know it yet;
callers start and stop at any moment; messages are lost, doubted, refused; pages answer late or twice; the model says
and asks something; time passes. After each step the rules in `simulated.ledger` are checked, and at the end everything
must come to rest and every thread go on.

By itself this tries the same few lives each time. `BF_MACHINE_EXAMPLES` says how many others are tried (on Postgres a
tenth of them), `BF_MACHINE_STEPS` how long they are: a core tries about one life of 40 steps in a second.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from bf_plugin.journal import Journal, open_journal
from bf_plugin.journal.tables import metadata, schema
from simulated.process import WRITING, Writing
from simulated.provider import Response, call_item
from simulated.tools import NAMES
from simulated.world import World

T = TypeVar("T")
Moves = list[tuple[int, str, int]]

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
FIXED = "BF_MACHINE_EXAMPLES" not in os.environ
EXAMPLES = int(os.environ.get("BF_MACHINE_EXAMPLES", "20"))
STEPS = int(os.environ.get("BF_MACHINE_STEPS", "40"))
PICKS = st.integers(min_value=0, max_value=5)
TEXTS = st.text(alphabet="abé😀\ud83d\ude00", min_size=1, max_size=3)
ROUNDS = st.just(0) | st.integers(min_value=0, max_value=12)
MOVES = st.lists(st.tuples(st.integers(min_value=0, max_value=30), TEXTS, ROUNDS), max_size=4)
"""How what is under way comes further: a number that picks what moves, a text if the model says something, and for how
many rounds the processes go on before the next thing happens; 0: until they have nothing to do."""


def pick(things: Sequence[T], number: int) -> T:
    """Return one of `things`; 0 is the newest."""
    return things[-1 - number % len(things)]


class RunMachine(RuleBasedStateMachine):
    """What may happen to runs."""

    fresh: ClassVar[Callable[[], Callable[[], Journal]]]
    """Makes an empty database; returns what opens its journal, as one more process does."""

    world: World

    @initialize(
        policy=st.sampled_from(["reject", "enqueue", "interrupt"]),
        guarded=st.booleans(),
        coalesce_ms=st.sampled_from([0, 40]),
        processes=st.lists(st.sampled_from(WRITING), min_size=1, max_size=3),
    )
    def begin(self, policy: Any, guarded: bool, coalesce_ms: int, processes: list[Writing]) -> None:
        self.calls = 0
        self.world = World(type(self).fresh(), policy=policy, guarded=guarded, coalesce_ms=coalesce_ms)
        for writing in processes:
            self.world.boot(writing=writing)
        self.world.start(self.world.ready[0], None, stream=True)
        self.world.settle()

    def _go_on(self, moves: Moves) -> None:
        """Let everything happen, and what is under way come further by some moves."""
        self.world.settle()
        for number, text, rounds in moves:
            if things := self.world.next_things:
                self._move(*pick(things, number), number, text)
                self.world.settle(rounds)

    def _move(self, kind: str, thing: Any, number: int, text: str) -> None:
        if kind == "tool":
            self.world.tools.settle(thing, "returns")
        elif kind == "message":
            self.world.gateway.settle(thing, "accept")
        elif kind == "question":
            self.world.settle_question(thing, accept=True)
        elif kind == "page":
            self.world.answer(pick(self.world.ready, number), thing)
        elif kind == "stop":
            self.world.stop(pick(self.world.ready, number), thing)
        elif kind == "say":
            thing.say(text, new_part=number > 25)
        elif kind == "ask":
            self._ask(thing, number)
        else:
            thing.end("done")

    def _ask(self, response: Response, number: int) -> None:
        for name in [NAMES[(number + place) % len(NAMES)] for place in range(1 + number % 3)]:
            self.calls += 1
            response.calls.append(call_item(name, f"c{self.calls}", f'{{"n":{self.calls}}}'))
        response.end("done")

    # callers

    @rule(moves=MOVES, thread=st.none() | PICKS, process=PICKS, stream=st.sampled_from([True, True, True, False]))
    @precondition(lambda self: self.world.ready and len(self.world.ledger.starts) < 8)
    def start(self, moves: Moves, thread: int | None, process: int, stream: bool) -> None:
        known = {run.thread_id for run in self.world.ledger.runs.values()}  # not those of starts that were taken back
        threads = [start.thread_id for start in self.world.ledger.starts.values() if start.thread_id in known]
        thread_id = None if thread is None or not threads else pick(threads, thread)
        self.world.start(pick(self.world.ready, process), thread_id, stream=stream)
        self._go_on(moves)

    @rule(moves=MOVES, run=PICKS, process=PICKS)
    @precondition(lambda self: self.world.ready and self.world.stoppable)
    def stop(self, moves: Moves, run: int, process: int) -> None:
        self.world.stop(pick(self.world.ready, process), pick(self.world.stoppable, run))
        self._go_on(moves)

    @rule(moves=MOVES, run=PICKS)
    @precondition(lambda self: self.world.unheard)
    def lose_patience(self, moves: Moves, run: int) -> None:
        self.world.lose_patience(pick(self.world.unheard, run))
        self._go_on(moves)

    @rule(moves=MOVES, page=PICKS, process=PICKS)
    @precondition(lambda self: self.world.ready and self.world.ledger.pages)
    def answer(self, moves: Moves, page: int, process: int) -> None:
        """A page answers, be it late or twice."""
        self.world.answer(pick(self.world.ready, process), pick(list(self.world.ledger.pages), page))
        self._go_on(moves)

    # the model and tools

    @rule(moves=MOVES, response=PICKS, status=st.sampled_from(["failed", "lost"]))
    @precondition(lambda self: self.world.provider.open)
    def break_off(self, moves: Moves, response: int, status: Any) -> None:
        pick(self.world.provider.open, response).end(status)
        self._go_on(moves)

    @rule(moves=MOVES)
    @precondition(lambda self: not self.world.provider.slow)
    def hold_questions(self, moves: Moves) -> None:
        """The provider takes its time to accept what it is asked."""
        self.world.provider.slow = True
        self._go_on(moves)

    @rule(moves=MOVES)
    @precondition(lambda self: self.world.provider.slow)
    def let_questions_go(self, moves: Moves) -> None:
        self.world.provider.slow = False
        self._go_on(moves)

    @rule(moves=MOVES, question=PICKS)
    @precondition(lambda self: self.world.knocks)
    def refuse(self, moves: Moves, question: int) -> None:
        self.world.settle_question(pick(self.world.knocks, question), accept=False)
        self._go_on(moves)

    @rule(moves=MOVES, tool=PICKS, how=st.sampled_from(["fails", "ends the run"]))
    @precondition(lambda self: self.world.tools.working)
    def break_tool(self, moves: Moves, tool: int, how: Any) -> None:
        self.world.tools.settle(pick(self.world.tools.working, tool), how)
        self._go_on(moves)

    # the gateway

    @rule(moves=MOVES)
    @precondition(lambda self: not self.world.gateway.slow)
    def hold_messages(self, moves: Moves) -> None:
        """The gateway takes its time to answer."""
        self.world.gateway.slow = True
        self._go_on(moves)

    @rule(moves=MOVES)
    @precondition(lambda self: self.world.gateway.slow and self.world.gateway.flying)
    def let_messages_go(self, moves: Moves) -> None:
        self.world.gateway.slow = False
        self._go_on(moves)

    @rule(moves=MOVES, message=PICKS, how=st.sampled_from(["arrive", "fail", "arrive and fail", "refuse"]))
    @precondition(lambda self: self.world.gateway.flying)
    def doubt(self, moves: Moves, message: int, how: str) -> None:
        self.world.gateway.settle(pick(self.world.gateway.flying, message), how)
        self._go_on(moves)

    # processes and time

    @rule(moves=MOVES, writing=st.sampled_from(WRITING))
    @precondition(lambda self: len(self.world.ready) < 2 and len(self.world.processes) < 8)
    def boot(self, moves: Moves, writing: Writing) -> None:
        self.world.boot(writing=writing)
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS, turns=st.integers(min_value=0, max_value=30))
    @precondition(lambda self: self.world.busy)
    def stand_still(self, moves: Moves, process: int, turns: int) -> None:
        """A process does a few more things, then nothing, until it wakes up or is gone."""
        pick(self.world.busy, process).fuel = turns
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS)
    @precondition(lambda self: self.world.standing)
    def wake_up(self, moves: Moves, process: int) -> None:
        pick(self.world.standing, process).fuel = None
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS)
    @precondition(lambda self: self.world.busy + self.world.standing)
    def die(self, moves: Moves, process: int) -> None:
        pick(self.world.busy + self.world.standing, process).die()
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS)
    @precondition(lambda self: self.world.busy)
    def leave(self, moves: Moves, process: int) -> None:
        """A process ends politely: it hands its runs over."""
        pick(self.world.busy, process).leave()
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS)
    @precondition(lambda self: self.world.ready and self.world.orphaned)
    def sweep(self, moves: Moves, process: int) -> None:
        pick(self.world.ready, process).sweep()
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS, run=PICKS)
    @precondition(lambda self: self.world.ready and self.world.under_way)
    def usurp(self, moves: Moves, process: int, run: int) -> None:
        """A run is taken from a process that was thought dead and is not."""
        taken = pick(self.world.under_way, run)
        usurper = pick(self.world.ready, process)
        if taken.owner != usurper.owner:
            usurper.usurp(taken.id, taken.epoch)
        self._go_on(moves)

    @rule(moves=MOVES, process=PICKS, turns=st.integers(min_value=0, max_value=40), taker=PICKS)
    @precondition(lambda self: self.world.busy and len(self.world.ready) > 1)
    def be_late(self, moves: Moves, process: int, turns: int, taker: int) -> None:
        """A process stands still, loses its runs to another one, wakes up, and goes on as if nothing had happened."""
        late = pick(self.world.busy, process)
        late.fuel = turns
        self._go_on(moves)
        takers = [one for one in self.world.ready if one is not late]
        for run in self.world.under_way:
            if run.owner == late.owner and takers:
                pick(takers, taker).usurp(run.id, run.epoch)
        self.world.settle()
        late.fuel = None
        self.world.settle()

    @rule(moves=MOVES, seconds=st.sampled_from([0.05, 0.05, 1.5, 1.5, 6.0, 40.0, 100.0, 700.0]))
    @precondition(lambda self: self.world.under_way)
    def wait(self, moves: Moves, seconds: float) -> None:
        self.world.advance(seconds)
        self._go_on(moves)

    # what holds

    @invariant()
    def nothing_was_broken(self) -> None:
        violations = self.world.ledger.violations
        assert violations == [], "; ".join(violations[:5])

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if self.world.ledger.violations == []:
                self.world.calm()
            self.nothing_was_broken()
        finally:
            self.world.close()


def machine_on(url: str) -> type[RunMachine]:
    """Return the machine on a database. Its journals share their connections: none is used while another one is."""
    first = open_journal(url, [KEY])
    first.close()

    class OnDatabase(RunMachine):
        @staticmethod
        def fresh() -> Callable[[], Journal]:
            with first._engines[0].begin() as connection:
                for table in reversed(metadata.sorted_tables):
                    if table is not schema:
                        connection.execute(delete(table))
            return lambda: Journal(*first._engines, first.vault, first.database)

    return OnDatabase


def lives(machine: type[RunMachine], examples: int) -> None:
    """Run the machine through so many lives."""
    gc.collect()
    gc.freeze()  # each life ends with a collection: what was there before is not to be looked through again
    try:
        _run(machine, examples)
    finally:
        gc.unfreeze()


def _run(machine: type[RunMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            derandomize=FIXED,
            stateful_step_count=STEPS,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if FIXED else [Phase.reuse, Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300 if FIXED else 0)
def test_the_promise_is_kept_on_sqlite(tmp_path: Path) -> None:
    """Whatever happens, in whatever order."""
    lives(machine_on(f"sqlite:///{tmp_path / 'journal.db'}"), EXAMPLES)


@pytest.mark.timeout(300 if FIXED else 0)
def test_the_promise_is_kept_on_postgres(postgres_url: str) -> None:
    """The same, with a tenth of the lives."""
    lives(machine_on(postgres_url), max(EXAMPLES // 10, 1))
