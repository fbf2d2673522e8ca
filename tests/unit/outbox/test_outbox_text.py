"""The outbox: whatever comes in, in whatever pieces, what is sealed is in order, gapless and complete."""

from __future__ import annotations

import asyncio
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.errors import DeliveryRetry
from bf_plugin.run.composer import cursor_of
from bf_plugin.run.outbox import Outbox
from bf_plugin.runtime.text import well_formed
from lanes import Lane, Sink, check_order


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
            assert lane.log.text() == "".join(well_formed(part) for part in parts)
            assert lane.composer.answer == well_formed(parts[-1])

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
            assert second.log.text() == "".join(well_formed(part) for part in parts)

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
            assert lane.log.text() == "".join(map(well_formed, parts))
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
