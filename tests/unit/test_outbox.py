"""The outbox: whatever comes in, in whatever pieces, what is sealed is in order, gapless and complete."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin import hookimpl, in_thread
from bf_plugin.errors import DeliveryRefused, DeliveryRetry, Fenced, PluginError, StopRun
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers.port import Destination
from bf_plugin.journal.records import CANCELLED, RunEnded, Sealed
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.composer import Composer, cursor_of
from bf_plugin.run.outbox import Delivery, DeliveryFailed, Outbox
from bf_plugin.run.pace import Pace
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import new_run
from bf_plugin.values import Delta, Usage


class Log:
    """A message log in memory; `failure` is raised by the next seal."""

    def __init__(self) -> None:
        self.rows: list[Sealed] = []
        self.states: dict[int, str] = {}
        self.closing: list[bool] = []
        self.failure: Exception | None = None
        self.settled = asyncio.Event()

    def seal(self, message: Sealed, *, closing: bool) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failure is not None and not closing:
            future.set_exception(self.failure)
            return future
        self.rows.append(message)
        self.closing.append(closing)
        future.set_result(None)
        return future

    def settle(self, number: int, state: str) -> Future[None]:
        self.states[number] = state
        self.settled.set()
        return Future()

    def events(self) -> list[dict[str, Any]]:
        return [event for row in self.rows for event in events.events_in(row.body)]

    def text(self) -> str:
        return "".join(event["content"] for event in self.events() if event["type"] == "delta")


class Sink:
    """A messenger that takes messages, or answers with the errors it was given; `gate` holds it back."""

    def __init__(self, *answers: Exception | None) -> None:
        self.bodies: list[bytes] = []
        self.answers = list(answers)
        self.gate: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.busy = False

    async def send(self, destination: Destination, message: bytes) -> None:
        assert not self.busy, "two messages of one run in flight"
        self.busy = True
        try:
            self.bodies.append(message)
            self.arrived.set()
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            answer = self.answers.pop(0) if self.answers else None
            if answer is not None:
                raise answer
        finally:
            self.busy = False

    async def aclose(self) -> None:
        pass


class Lane:
    """An outbox with its surroundings."""

    def __init__(self, *, sink: Sink | None = None, plugin: object = None, interval: float = 0.0) -> None:
        manager = new_manager()
        if plugin is not None:
            register(manager, "test", plugin)
        self.log = Log()
        self.sink = sink or Sink()
        self.faults: list[Exception] = []
        self.pace = Pace(interval)
        destination = Destination(app="a", api_key="k", channels=["c"])
        hooks = HookCalls(manager, Workers("test", limit=1))
        self.composer = Composer(run=new_run(), hooks=hooks, action_name="handle", style="options")
        self.outbox = Outbox(
            composer=self.composer,
            log=self.log,  # type: ignore[arg-type]  # the same two methods
            delivery=Delivery(self.sink, destination, timeout=0.5),
            pace=self.pace,
            on_fault=self.faults.append,
        )

    async def __aenter__(self) -> Lane:
        self.task = asyncio.ensure_future(self.outbox.run())
        self.outbox.release()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Network:
    """What a stream is read from; a delta comes when nobody holds it back."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.held = 0
        self.times = 0
        self.flows = asyncio.Event()
        self.flows.set()
        outbox.reads_from(self.hold)

    def hold(self, holding: bool) -> None:
        assert holding == self.flows.is_set(), "held twice, or let go of twice"
        self.times += holding
        if holding:
            self.flows.clear()
        else:
            self.flows.set()

    async def bring(self, text: str, part: int = 0) -> None:
        await self.flows.wait()
        self.outbox.text(text, (1, (part, 0)), 1)


def check_order(log: Log) -> None:
    """Assert what no run may break: numbers and seqs without gaps, offsets that join, no empty delta."""
    assert [row.number for row in log.rows] == list(range(1, len(log.rows) + 1))
    found = log.events()
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    offset = 0
    for event in found:
        if event["type"] == "delta":
            assert event["offset"] == offset
            assert 0 < events.utf16_length(event["content"]) <= events.DELTA_LIMIT
            offset += events.utf16_length(event["content"])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(alphabet=st.sampled_from("ab😀\ud83d\ude00é"), max_size=5)),
        st.tuples(st.just("event"), st.just("")),
        st.tuples(st.just("yield"), st.just("")),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([0.0, 0.001]))
def test_all_text_arrives_in_order(script: list[tuple[str, str]], interval: float) -> None:
    """However the provider cuts its text, and wherever events stand in it, all of it is sent, in order, once."""

    async def scenario() -> None:
        async with Lane(interval=interval) as lane:
            for kind, text in script:
                if kind == "text":
                    lane.outbox.text(text, (1, (0, 0)), 0)
                elif kind == "event":
                    lane.outbox.event({"type": "function_call"})
                else:
                    await asyncio.sleep(0)
            await lane.outbox.finish()
            assert not lane.faults
            check_order(lane.log)
            assert lane.sink.bodies == [row.body for row in lane.log.rows]
            assert lane.composer.text == lane.log.text()
            assert lane.composer.answers == sum(kind == "event" for kind, _ in script)
            parts: list[str] = [""]
            for kind, text in script:
                if kind == "event":
                    parts.append("")
                parts[-1] += text
            assert lane.log.text() == "".join(events.well_formed(part) for part in parts)
            assert lane.composer.answer == events.well_formed(parts[-1])

    asyncio.run(scenario())


@settings(max_examples=100, deadline=None)
@given(
    deltas=st.lists(
        st.tuples(st.text(alphabet="a😀\ud83d\ude00", min_size=1, max_size=3), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    ),
    read=st.integers(0, 8),
)
def test_a_cursor_never_lies_within_a_character(deltas: list[tuple[str, int]], read: int) -> None:
    """Wherever a process dies, what the provider says from its cursor on completes what was sealed."""

    async def scenario() -> None:
        async with Lane() as first:
            for sequence, (text, output) in enumerate(deltas[:read]):
                first.outbox.text(text, (1, (output, 0)), sequence)
                await asyncio.sleep(0)
            await first.outbox.flush()
        cursor = cursor_of(first.log.rows, 1)
        async with Lane() as second:
            second.log.rows = list(first.log.rows)
            second.outbox.restore(first.log.rows)
            for sequence, (text, output) in enumerate(deltas):
                if sequence > cursor.sequence:
                    second.outbox.text(text, (1, (output, 0)), sequence)
            await second.outbox.finish()
            parts = [("".join(text for text, _ in part)) for _, part in groupby(deltas, lambda delta: delta[1])]
            assert second.log.text() == "".join(events.well_formed(part) for part in parts)

    asyncio.run(scenario())


def test_text_joins_while_a_message_is_in_flight() -> None:
    """A slow gateway gets fewer, larger messages."""

    async def scenario() -> None:
        sink = Sink()
        sink.gate = asyncio.Event()
        async with Lane(sink=sink) as lane:
            lane.outbox.text("first", (1, (0, 0)), 1)
            await sink.arrived.wait()
            for _ in range(100):
                lane.outbox.text("x", (1, (0, 0)), 2)
            sink.gate.set()
            await lane.outbox.finish()
            assert [event["content"] for event in lane.log.events()] == ["first", "x" * 100]

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b😀", "\ud83d", "\ude00"]), st.integers(0, 1), st.sampled_from(["", "event", "wait"])
        ),
        max_size=20,
    )
)
def test_nothing_is_lost_where_reading_is_held(script: list[tuple[str, int, str]]) -> None:
    """In a crowded process text is left unread until what waits is due; all of it comes, in order, and none stays."""

    async def scenario() -> int:
        async with Lane(interval=0.001) as lane:
            lane.pace._limit = 0.002
            lane.pace.saw(10.0)
            network = Network(lane.outbox)
            for text, part, then in script:
                await asyncio.wait_for(network.bring(text, part), 5)
                if then == "event":
                    lane.outbox.event({"type": "function_call"})
                elif then == "wait":
                    await asyncio.sleep(0.001)
            lane.outbox.reads_from(None)
            await asyncio.wait_for(lane.outbox.finish(), 5)
            check_order(lane.log)
            runs = [[]]  # type: list[list[tuple[str, int]]]
            for text, part, then in script:
                runs[-1].append((text, part))
                if then == "event":
                    runs.append([])
            parts = ("".join(text for text, _ in of) for run in runs for _, of in groupby(run, lambda one: one[1]))
            assert lane.log.text() == "".join(map(events.well_formed, parts))
            return network.times

    asyncio.run(scenario())


def test_a_crowded_process_reads_less_often() -> None:
    """Text that would only wait is left where it is: behind the first, until that is due."""

    async def scenario() -> None:
        async with Lane(interval=0.001) as lane:
            lane.pace._limit = 0.002
            lane.pace.saw(10.0)
            network = Network(lane.outbox)
            while lane.outbox._waiter is None:
                await asyncio.sleep(0)
            await network.bring("at once")
            assert network.times == 0, "it leaves now: why hold what follows?"
            while not lane.sink.bodies:
                await asyncio.sleep(0)
            await network.bring("waits")
            assert not network.flows.is_set()
            await asyncio.wait_for(network.bring(" and joins"), 5)
            await lane.outbox.finish()
            assert [event["content"] for event in lane.log.events()] == ["at once", "waits and joins"]

    asyncio.run(scenario())


def test_no_more_is_read_than_a_slow_gateway_takes() -> None:
    """What waits for it in memory is bounded, crowd or not; all comes once it answers."""

    async def scenario() -> None:
        sink = Sink()
        sink.gate = asyncio.Event()
        async with Lane(sink=sink) as lane:
            network = Network(lane.outbox)
            brought = 0

            async def provider() -> None:
                nonlocal brought
                for _ in range(1000):
                    await network.bring("x" * 1000)
                    brought += 1
                    await asyncio.sleep(0)
                lane.outbox.reads_from(None)

            providing = asyncio.ensure_future(provider())
            await asyncio.wait({providing}, timeout=0.3)
            assert 60 < brought < 80, "one message in flight, one that waits"
            sink.gate.set()
            await asyncio.wait_for(providing, 20)
            await lane.outbox.finish()
            assert len(lane.log.text()) == 1_000_000
            check_order(lane.log)

    asyncio.run(scenario())


def test_long_text_is_cut() -> None:
    """A joined delta is cut at 8 KiB, and a message holds no more than eight of them."""

    async def scenario() -> None:
        async with Lane() as lane:
            for _ in range(30):
                lane.outbox.text("é" * 10_000, (1, (0, 0)), 1)
            await lane.outbox.finish()
            check_order(lane.log)
            assert lane.log.text() == "é" * 300_000

    asyncio.run(scenario())


def test_the_same_bytes_are_sent_again() -> None:
    """A message in doubt is repeated byte for byte, then marked accepted."""

    async def scenario() -> None:
        async with Lane(sink=Sink(DeliveryRetry("503"), DeliveryRetry("no answer"))) as lane:
            lane.outbox.text("hi", (1, (0, 0)), 1)
            await lane.outbox.finish()
            assert len(lane.sink.bodies) == 3
            assert set(lane.sink.bodies) == {lane.log.rows[0].body}
        assert lane.log.states == {1: "accepted"}

    asyncio.run(scenario())


def test_an_engine_that_goes_on_talking_is_not_heard() -> None:
    """Text that comes once the run has its outcome, before or after the end, is never said."""

    async def scenario() -> None:
        async with Lane() as lane:
            lane.outbox.text("hi", (1, (0, 0)), 1)
            await lane.outbox.flush()
            lane.outbox.discard()
            lane.outbox.text("too late", (1, (0, 0)), 2)
            lane.outbox.event({"type": "end"})
            lane.outbox.text("much too late", (1, (0, 0)), 3)
            await lane.outbox.flush()
            assert [event["type"] for event in lane.log.events()] == ["delta", "end"]

    asyncio.run(scenario())


def test_text_is_marked_by_what_follows_it() -> None:
    """No message that another follows needs a mark; one that nothing follows gets one, a page's tool call at once."""

    async def scenario() -> None:
        async with Lane() as lane:
            for number in range(4):
                lane.outbox.text(f"{number} ", (1, (0, 0)), number)
                await lane.outbox.flush()
            assert lane.log.states == {}
            lane.outbox.action({"action": "llmToolCall", "options": {"toolCallId": "tool_1"}})
            await lane.outbox.flush()
            assert lane.log.states == {5: "accepted"}
            lane.log.settled.clear()
            lane.outbox.text("last", (1, (0, 0)), 9)
            await asyncio.wait_for(lane.log.settled.wait(), 5)
            assert lane.log.states == {5: "accepted", 6: "accepted"}

    asyncio.run(scenario())


@pytest.mark.parametrize("answers", [[DeliveryRefused("404")], [DeliveryRetry("503")] * 9])
def test_what_cannot_be_delivered_is_kept(answers: list[Exception]) -> None:
    """A refusal, or too many failures, is reported; the end of the run is sealed then, but not sent."""

    async def scenario() -> None:
        async with Lane(sink=Sink(*answers)) as lane:
            lane.outbox.text("hi", (1, (0, 0)), 1)
            await lane.outbox.flush()
            assert [type(fault) for fault in lane.faults] == [DeliveryFailed]
            sent = len(lane.sink.bodies)
            lane.outbox.discard()
            lane.outbox.event({"type": "end"})
            await lane.outbox.flush()
            assert len(lane.sink.bodies) == sent
            assert [row.deliver for row in lane.log.rows] == [True, False]
            assert lane.log.states == {1: "unsent"}

    asyncio.run(scenario())


def test_nothing_follows_a_discard_but_the_end() -> None:
    """Text that was not sealed when the run was decided is dropped, and the end's seq follows without a gap."""

    async def scenario() -> None:
        sink = Sink()
        sink.gate = asyncio.Event()
        async with Lane(sink=sink) as lane:
            lane.outbox.text("one", (1, (0, 0)), 1)
            await sink.arrived.wait()
            lane.outbox.text("two\ud83d", (1, (0, 0)), 2)
            lane.outbox.discard()
            lane.outbox.event({"type": "end"})
            sink.gate.set()
            await lane.outbox.flush()
            check_order(lane.log)
            assert [event["type"] for event in lane.log.events()] == ["delta", "end"]
            assert lane.log.closing == [False, True]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "failure",
    [Fenced("gone"), RunEnded(CANCELLED)],
)
def test_a_seal_that_fails_is_reported_and_not_sent(failure: Exception) -> None:
    """What the journal refused is never sent, and its seq is free for what follows."""

    async def scenario() -> None:
        async with Lane() as lane:
            lane.log.failure = failure
            lane.outbox.text("hi", (1, (0, 0)), 1)
            await lane.outbox.flush()
            assert lane.faults == [failure]
            assert lane.sink.bodies == []
            assert lane.task.done() == isinstance(failure, Fenced)

    asyncio.run(scenario())


def test_an_end_queued_behind_a_refused_seal_is_kept() -> None:
    """The end may wait already when the journal refuses the text before it: it still goes out."""

    async def scenario() -> None:
        async with Lane() as lane:
            blocked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            original = lane.log.seal
            lane.log.seal = lambda *args, **options: blocked  # type: ignore[method-assign]
            lane.outbox.text("hi", (1, (0, 0)), 1)
            await asyncio.sleep(0.01)
            lane.log.seal = original  # type: ignore[method-assign]
            lane.outbox.discard()
            lane.outbox.event({"type": "end"})
            blocked.set_exception(RunEnded(CANCELLED))
            await lane.outbox.flush()
            assert [event["type"] for event in lane.log.events()] == ["end"]

    asyncio.run(scenario())


class Censor:
    """Holds back the last character, and lets it go at the end."""

    def __init__(self) -> None:
        self.held = ""

    @hookimpl
    def on_delta(self, delta: Delta) -> None:
        text = self.held + delta.text.upper()
        self.held = "" if delta.final else text[-1:]
        delta.text = text if delta.final else text[:-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=10))
def test_hooks_change_and_hold_text(parts: list[str]) -> None:
    """What a hook makes of the text is what is sent; held text goes at the end, empty deltas never."""

    async def scenario() -> None:
        async with Lane(plugin=Censor()) as lane:
            for part in parts:
                lane.outbox.text(part, (1, (0, 0)), 1)
                await asyncio.sleep(0)
            await lane.outbox.finish()
            check_order(lane.log)
            assert lane.log.text() == "".join(parts).upper()

    asyncio.run(scenario())


class Breaker:
    """Fails as told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @hookimpl
    def on_delta(self, delta: Delta) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reported"), [(StopRun("content_filter"), StopRun), (ValueError("oops"), PluginError)]
)
def test_a_hook_that_raises_leaks_nothing(error: Exception, reported: type[Exception]) -> None:
    """When a guard fails, its text is not sent, and the driver is told."""

    async def scenario() -> None:
        async with Lane(plugin=Breaker(error)) as lane:
            lane.outbox.text("secret", (1, (0, 0)), 1)
            await lane.outbox.flush()
            assert [type(fault) for fault in lane.faults] == [reported]
            assert lane.log.rows == []

    asyncio.run(scenario())


def test_restore_goes_on_behind_what_was_sealed() -> None:
    """After a crash the sealed message is sent again with the same bytes, and numbers go on behind it."""

    async def scenario() -> None:
        async with Lane() as first:
            first.outbox.text("one 😀", (1, (0, 0)), 1)
            first.outbox.event({"type": "function_call"})
            first.outbox.text("two", (2, (0, 0)), 1)
            await first.outbox.finish()
        rows = first.log.rows
        second = Lane()
        second.outbox.restore(rows)
        async with second as lane:
            lane.outbox.discard()
            lane.outbox.event({"type": "end"})
            await lane.outbox.flush()
        assert second.sink.bodies[0] == rows[-1].body
        assert [row.number for row in second.log.rows] == [len(rows) + 1]
        assert second.log.events()[0]["seq"] == rows[-1].last_seq + 1
        assert second.composer.text == "one 😀two"
        assert second.composer.answer == "two"

    asyncio.run(scenario())


def test_text_that_a_hook_still_has_is_not_part_of_the_ending() -> None:
    """No delta follows an outcome: text composed before it is sealed under the outcome's eyes."""

    async def scenario() -> None:
        asked, answer = threading.Event(), threading.Event()

        class Slow:
            @hookimpl
            @in_thread
            def on_delta(self, delta: Delta) -> None:
                asked.set()
                answer.wait(5)

        async with Lane(plugin=Slow()) as lane:
            lane.outbox.text("late", (1, (0, 0)), 1)
            while not asked.is_set():
                await asyncio.sleep(0.001)
            lane.outbox.discard()
            lane.outbox.event(events.end("cancelled", Usage()))
            answer.set()
            await asyncio.wait_for(lane.outbox.flush(), 5)

        assert lane.log.closing == [False, True]

    asyncio.run(scenario())


def test_nobody_waits_for_a_lane_that_was_fenced_off() -> None:
    """What is put into it goes nowhere, and a flush returns."""

    async def scenario() -> None:
        async with Lane() as lane:
            lane.log.failure = Fenced("taken over")
            lane.outbox.text("text", (1, (0, 0)), 1)
            await asyncio.wait_for(lane.task, 5)
            lane.outbox.event(events.end("stop", Usage()))
            await asyncio.wait_for(lane.outbox.flush(), 5)

        assert lane.log.rows == []

    asyncio.run(scenario())


def test_a_messenger_that_wants_to_exit() -> None:
    """A SystemExit is a fault of its run: it would end the loop and with it all runs."""

    async def scenario() -> None:
        async def leave() -> None:
            raise SystemExit(1)

        lane = Lane()
        lane.sink.send = lambda destination, message: leave()  # type: ignore[method-assign]
        async with lane:
            lane.outbox.text("text", (1, (0, 0)), 1)
            await asyncio.wait_for(lane.outbox.flush(), 5)

        assert [type(fault) for fault in lane.faults] == [RuntimeError]

    asyncio.run(scenario())
