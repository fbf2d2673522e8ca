"""What plugins keep: the same for all that implement the store, over threads and processes, and never in the clear."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from bf_plugin import PluginStore
from bf_plugin.errors import ContextError
from bf_plugin.journal import Journal, open_journal
from bf_plugin.journal.tables import plugin_values
from bf_plugin.journal.vault import Unreadable
from bf_plugin.plugins.lease import JournalStore, Lease
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.testing.store import MemoryStore

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
OTHER_KEY = "r1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def clock() -> list[float]:
    """The store's time, to be set."""
    return [1000.0]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop, as a mount has it."""
    running = LoopThread()
    yield running
    running.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    """A journal on each kind of database."""
    opened = open_journal(url, [KEY])
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: list[float], loop: LoopThread
) -> Iterator[PluginStore]:
    """Each implementation, for a plugin called mine."""
    if request.param == "memory":
        yield MemoryStore(now=lambda: clock[0])
        return
    file = f"sqlite:///{tmp_path / 'journal.db'}"
    opened = open_journal(file if request.param == "sqlite" else request.getfixturevalue("postgres_url"), [KEY])
    yield store_in(opened, loop, clock)
    opened.close()


def store_in(journal: Journal, loop: LoopThread, clock: list[float], plugin: str = "mine") -> PluginStore:
    return JournalStore(journal.plugin_values, Lease(loop), plugin, now=lambda: clock[0])


# every implementation ------------------------------------------------------------------------------------------------


def test_a_value_is_there_until_it_is_deleted(store: PluginStore) -> None:
    """Put, replaced, deleted; deleting what is not there is no error."""
    assert store.get("a") is None
    assert store.get("a", 5) == 5
    store.put("a", {"x": [1, 2.5, None, "ü"]})
    assert store.get("a") == {"x": [1, 2.5, None, "ü"]}
    store.put("a", None)
    assert store.get("a", 5) is None
    store.delete("a")
    store.delete("a")
    assert store.get("a", 5) == 5


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(), value=json_values)
def test_whatever_json_says_comes_back(store: PluginStore, key: str, value: Any) -> None:
    """Any value under any key."""
    store.put(key, value)
    assert store.get(key) == value
    assert type(store.get(key)) is type(value)


def test_values_are_copies_in_the_form_of_json(store: PluginStore) -> None:
    """Nobody else sees later changes; tuples are lists, lone surrogates are replaced, huge numbers floats."""
    value = {"x": [1]}
    store.put("a", value)
    value["x"].append(2)
    store.get("a")["x"].append(3)
    assert store.get("a") == {"x": [1]}
    store.put("a", (1, "\ud800", 2**70))
    assert store.get("a") == [1, "\ufffd", float(2**70)]


def test_a_value_expires(store: PluginStore, clock: list[float]) -> None:
    """After `ttl` seconds it is gone; put again without one, it stays."""
    store.put("a", 1, ttl=10)
    clock[0] += 9.9
    assert store.get("a") == 1
    clock[0] += 0.1
    assert store.get("a", "gone") == "gone"
    store.put("a", 2)
    clock[0] += 1e9
    assert store.get("a") == 2


def test_a_counter_has_a_fixed_window(store: PluginStore, clock: list[float]) -> None:
    """Its time starts with the first increment; later ones do not prolong it; afterwards it starts from 0."""
    assert store.increment("a", ttl=60) == 1
    clock[0] += 59
    assert store.increment("a", 4, ttl=60) == 5
    assert store.get("a") == 5
    clock[0] += 1
    assert store.get("a") is None
    assert store.increment("a", ttl=60) == 1
    clock[0] += 59
    assert store.increment("a", ttl=60) == 2


def test_numbers_are_added_as_python_adds_them(store: PluginStore) -> None:
    """Whole numbers stay whole, fractions and negative numbers are fine, and a number that was put is one."""
    assert repr(store.increment("a")) == "1"
    assert repr(store.increment("a", 2**53)) == "9007199254740993"
    assert store.increment("b", 0.25) == 0.25
    assert store.increment("b", -1) == -0.75
    store.put("c", 40)
    assert store.increment("c", 2) == 42


@pytest.mark.parametrize("value", ["1", None, [1], True, {"n": 1}])
def test_only_numbers_are_incremented(store: PluginStore, value: Any) -> None:
    """Anything else is a mistake of the plugin's; what is there stays."""
    store.put("a", value)
    with pytest.raises(TypeError, match=f"the key holds {type(value).__name__}"):
        store.increment("a")
    assert store.get("a") == value


@pytest.mark.parametrize("by", ["1", None, True, math.nan, math.inf])
def test_and_only_by_numbers(store: PluginStore, by: Any) -> None:
    """Infinity would never come down again."""
    with pytest.raises(TypeError, match="by is a number"):
        store.increment("a", by)
    assert store.get("a") is None


@pytest.mark.parametrize("ttl", [0, -1, math.inf, math.nan])
def test_a_time_to_live_is_a_time(store: PluginStore, ttl: float) -> None:
    """0 would be a value that is never there; for ever is None."""
    with pytest.raises(ValueError, match="ttl is a number of seconds above 0"):
        store.put("a", 1, ttl=ttl)
    with pytest.raises(ValueError, match="ttl is a number of seconds above 0"):
        store.increment("a", ttl=ttl)
    assert store.get("a") is None


def test_a_key_is_text_and_a_value_is_json(store: PluginStore) -> None:
    """Errors name the type, before anything is written."""
    key: Any = 5
    for call in (store.get, store.increment, store.delete, lambda key: store.put(key, 1)):
        with pytest.raises(TypeError, match="a key is a str, not int"):
            call(key)
    with pytest.raises(TypeError):
        store.put("a", object())
    assert store.get("a") is None


def test_the_loop_is_not_blocked(store: PluginStore) -> None:
    """On an event loop each call is refused with what to do instead; in a thread beside it, it works."""

    async def on_loop() -> int:
        for call in (store.get, store.increment, store.delete, lambda key: store.put(key, 1)):
            with pytest.raises(ContextError, match=r"event loop.*asyncio\.to_thread.*@in_thread"):
                call("a")
        return int(await asyncio.to_thread(store.increment, "a"))

    assert asyncio.run(on_loop()) == 1


def test_increments_of_many_threads_are_all_counted(store: PluginStore) -> None:
    """None is lost, and each thread sees a sum of its own."""
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: store.increment("a"), range(200)))
    assert sorted(seen) == list(range(1, 201))
    assert store.get("a") == 200


# in the journal ------------------------------------------------------------------------------------------------------


def test_increments_of_several_journals_are_all_counted(url: str, loop: LoopThread, clock: list[float]) -> None:
    """Each process has a journal of its own on the same database; a row that nobody has yet is a race too."""
    journals = [open_journal(url, [KEY]) for _ in range(3)]
    stores = [store_in(journal, loop, clock) for journal in journals]
    with ThreadPoolExecutor(9) as pool:
        jobs = [(store, f"k{number % 5}") for number in range(50) for store in stores]
        list(pool.map(lambda job: job[0].increment(job[1]), jobs))
    assert [stores[0].get(f"k{number}") for number in range(5)] == [30] * 5
    for journal in journals:
        journal.close()


def test_it_survives_a_restart(url: str, loop: LoopThread, clock: list[float]) -> None:
    """What one process wrote, the next one reads."""
    for expected in (1, 2):
        journal = open_journal(url, [KEY])
        assert store_in(journal, loop, clock).increment("a") == expected
        journal.close()


def test_plugins_do_not_see_each_other(journal: Journal, loop: LoopThread, clock: list[float]) -> None:
    """The same key of two plugins is two keys, whatever their names are."""
    mine, other = store_in(journal, loop, clock, "a"), store_in(journal, loop, clock, "ab")
    mine.put("bc", 1)
    assert other.get("c") is None
    other.put("bc", 2)
    mine.delete("bc")
    assert other.get("bc") == 2


def test_neither_keys_nor_values_are_in_the_file(tmp_path: Path, loop: LoopThread, clock: list[float]) -> None:
    """Keys may hold names of people: they are digests. Values and numbers are encrypted."""
    journal = open_journal(f"sqlite:///{tmp_path / 'journal.db'}", [KEY])
    store_in(journal, loop, clock).put("alice@example.com", "rosebud")
    store_in(journal, loop, clock).increment("bob@example.com", 4242)
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        rows = connection.execute("SELECT * FROM bf_plugin_values").fetchall()
    journal.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("journal.db*"))
    assert [(row[1], row[3]) for row in rows] == [("mine", None)] * 2
    assert "4242" not in repr(rows)
    assert not [word for word in (b"alice", b"bob", b"rosebud") if word in content]


def test_a_change_of_the_secret_key_is_survived_or_named(url: str, loop: LoopThread, clock: list[float]) -> None:
    """With the old key behind the new one all is as it was; without it the error says what is missing."""
    journal = open_journal(url, [KEY])
    store_in(journal, loop, clock).increment("a")
    journal.close()
    journal = open_journal(url, [OTHER_KEY, KEY])
    assert store_in(journal, loop, clock).increment("a") == 2
    journal.close()
    journal = open_journal(url, [KEY])
    with pytest.raises(Unreadable, match="BF_SECRET_KEY"):
        store_in(journal, loop, clock).get("a")
    with pytest.raises(Unreadable, match="BF_SECRET_KEY"):
        store_in(journal, loop, clock).increment("a")
    store_in(journal, loop, clock).put("b", 1)  # the writer goes on
    journal.close()


def test_expired_values_are_purged(journal: Journal, loop: LoopThread, clock: list[float], monkeypatch: Any) -> None:
    """By the purge of old runs, in batches, whatever the retention is; what has not expired stays."""
    store = store_in(journal, loop, clock)
    for number in range(250):
        journal.plugin_values.put("mine", f"k{number}", 1, clock[0] + 10)
    store.put("lives", 1, ttl=11)
    store.put("stays", 1)
    monkeypatch.setattr("bf_plugin.journal.purge.time.time", lambda: clock[0] + 10)

    removed: list[int] = []
    while not removed or removed[-1]:
        removed.append(journal.purge(0.0).result(10))

    assert removed == [200, 50, 0]
    rows = journal.plugin_values.read(
        lambda connection: connection.scalar(select(func.count()).select_from(plugin_values))
    )
    assert rows == 2
