"""Somebody else writes the SQLite file for seconds: runs wait, and go on."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bf_plugin.testing.deployment import Deployment
from bf_plugin.testing.provider import Gate, text


def test_a_writer_that_holds_the_database_for_seconds(deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    """While `BEGIN IMMEDIATE` of another program stands, nothing can be sealed and nothing is lost."""
    deployed = deploy()
    gate = Gate()
    deployed.provider.script(text("before ", gate, "meanwhile ", "and after"))
    run = deployed.start()
    deployed.wait_for_text(run, "before ")

    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        held = threading.Timer(5.0, lambda: other.execute("ROLLBACK"))
        held.start()
        gate.release()
        second = deployed.start("Another")
        held.join()
        events = deployed.events(run)
        deployed.events(second)

    assert deployed.text(run) == "before meanwhile and after"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["finish_reason"] == "stop"
