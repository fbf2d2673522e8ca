"""The outbox: what cannot be delivered or sealed, hooks that hold or raise, and going on after a crash."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin import hookimpl, in_thread
from bf_plugin.errors import DeliveryRefused, DeliveryRetry, Fenced, PluginError, StopRun
from bf_plugin.gateway import events
from bf_plugin.journal.records import CANCELLED, RunEnded
from bf_plugin.run.outbox import DeliveryFailed
from bf_plugin.values import Delta, Usage
from lanes import Lane, Sink, check_order


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
