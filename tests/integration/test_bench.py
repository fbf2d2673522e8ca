"""`bf-plugin bench`: that each figure is measured, by real processes, and what the command makes of them."""

from __future__ import annotations

import re
import time

import msgspec
import openai
import pytest
import requests
from click.testing import CliRunner
from sqlalchemy import create_engine, func, select

from bf_plugin.bench.figure import Effort, Figure
from bf_plugin.bench.figures import FIGURES
from bf_plugin.bench.history import multiply
from bf_plugin.bench.report import line
from bf_plugin.bench.rig import BenchError, Rig
from bf_plugin.bench.stamps import read_stamps, stamp
from bf_plugin.cli import main
from bf_plugin.journal.tables import items, messages, runs, threads

TINY = Effort(repetitions=1, streams=4, seconds=0.5, frontier=(5,), soak_seconds=1.0, history=(1, 20))

QUICK_ONES = sorted(set(FIGURES) - {"memory", "first-delta", "full-pace"})
"""Those that do not start hundreds of runs whatever the effort; full pace is reading pace with another number."""


@pytest.mark.parametrize("name", QUICK_ONES)
def test_each_figure_is_measured(name: str) -> None:
    with Rig(core=None) as rig:
        figures = list(FIGURES[name](rig, TINY))

    assert figures
    for figure in figures:
        assert figure.raw, "what it was made of is kept"
        assert figure.name in line(figure)
        if figure.name != "growth of memory" and figure.unit != "%":  # these may be anything, below zero too
            assert figure.value > 0


def test_what_the_provider_says_arrives_at_the_sink() -> None:
    """Every piece of text is counted once, the first of each run as such, and runs end."""
    with Rig(core=None) as rig:
        gateway = rig.gateway()
        rig.begin(rate=100.0, count=20)
        started = rig.start_many(gateway, 3)
        rig.wait_for_ends(3)

        assert rig.provider.ask("count")["deltas"] == 60
        seen = rig.sink.ask("latency")
        assert seen["deltas"] == 60
        assert 0 < seen["took"]["p50"] < 60
        assert seen["messages"] < 60 + 2 * 3
        assert set(rig.sink.ask("ends")["ends"]) == {start.ids["runId"] for start in started}


def test_the_fake_provider_speaks_to_the_sdk() -> None:
    """The baseline reads the same bytes, so they must be what the SDK takes for a response."""
    with Rig(core=None) as rig:
        rig.begin(rate=500.0, count=5)
        client = openai.OpenAI(api_key="sk-bench", base_url=rig.base_url, max_retries=0)
        with client, client.responses.create(model="bench", input="Hi", stream=True) as stream:
            events = list(stream)

    assert [event.type for event in events] == [
        "response.created",
        *["response.output_text.delta"] * 5,
        "response.completed",
    ]


def test_a_past_is_copied() -> None:
    """Copies have threads, runs, items and messages of their own, and the journal takes new runs as before."""
    with Rig(core=None) as rig:
        gateway = rig.gateway(database="past")
        rig.begin(rate=500.0, count=5)
        first = rig.start(gateway)
        rig.wait_for_ends(1)
        multiply(rig.url_of("past"), first.ids["runId"], range(1, 1200))

        engine = create_engine(rig.url_of("past"))
        with engine.connect() as connection:
            counts = [connection.scalar(select(func.count()).select_from(table)) for table in (threads, runs)]
            of_one = [
                connection.scalar(select(func.count()).where(table.c.run_id == first.ids["runId"]))
                for table in (items, messages)
            ]
            of_all = [connection.scalar(select(func.count()).select_from(table)) for table in (items, messages)]
        engine.dispose()
        assert counts == [1200, 1200]
        assert all(of_one)
        assert of_all == [1200 * count for count in of_one]  # type: ignore[operator]
        rig.start(gateway)
        rig.wait_for_ends(2)


def test_a_gateway_that_refuses_is_said_so() -> None:
    with Rig(core=None) as rig:
        gateway = rig.gateway(max_runs=1)
        rig.begin(rate=1.0, count=100)
        rig.start(gateway)
        with pytest.raises(BenchError, match="answered 503"):
            rig.start(gateway)


def test_a_process_that_ends_is_said_so() -> None:
    with Rig(core=None) as rig, pytest.raises(BenchError, match="ended with 1"):
        rig.gateway(api_keys="short", database_url="mysql://nowhere")


def test_stamps() -> None:
    """What the sink reads of a message is what the provider wrote: which piece was the first, and when."""
    before = time.monotonic_ns()
    text = stamp(first=True) + stamp(first=False)
    after = time.monotonic_ns()

    (first, sent), (second, _) = read_stamps(b'{"content":"' + text + b'"}')

    assert (first, second) == (True, False)
    assert before <= sent <= after


def test_the_command() -> None:
    """A line a figure, or JSON with all that was measured; its exit code tells whether a target is missed."""
    result = CliRunner().invoke(
        main, ["bench", "--repetitions", "2", "--seconds", "0.5", "--only", "pass-through", "--json"]
    )

    data = msgspec.json.decode(result.stdout)
    (figure,) = data["figures"]
    assert result.exit_code == (0 if figure["met"] else 1), result.output
    assert figure["name"] == "requests lost in passing through"
    assert len(figure["raw"]) == 4, "pairs of the bare host and the mounted one"
    assert data["machine"]["versions"]["bf_plugin"]
    assert re.search(r"requests lost .* at most 3 ", result.stderr)


def test_a_missed_target_is_said() -> None:
    missed = Figure(name="x", pace="y", value=2.0, unit="ms", target=1.0, spread=(1.5, 2.5))
    assert line(missed).endswith("MISSED")
    assert "(1.5 to 2.5)" in line(missed)
    assert line(Figure(name="x", pace="y", value=0.5, unit="ms", target=1.0)).endswith("met")


def test_the_bare_host_answers() -> None:
    with Rig(core=None) as rig:
        assert requests.get(f"http://127.0.0.1:{rig.bare().port}", timeout=10).text == "hello from the host"
