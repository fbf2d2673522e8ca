"""The tables, the same on SQLite and Postgres. Columns named `*_sealed` hold Fernet tokens, never clear text.

Every change of them is a new step in `migrations.py`, which brings older databases up to date.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from bf_plugin.journal.states import UNDER_WAY

metadata = MetaData()

_Id = String(64)
_Counter = BigInteger().with_variant(Integer, "sqlite")

threads = Table(
    "bf_threads",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("app", String(200), nullable=False),
    Column("created_by", _Id, nullable=False),
    Column("used_at", Float, nullable=False, index=True),
    Column("engine_key", String(64)),
    Column("state_sealed", LargeBinary),
    Column("synced", _Counter, nullable=False, default=0),
)
"""`engine_key` says whose `state` it is, `synced` is the newest item that state covers."""

items = Table(
    "bf_items",
    metadata,
    Column("id", _Counter, primary_key=True, autoincrement=True),
    Column("thread_id", _Id, ForeignKey("bf_threads.id", ondelete="CASCADE"), nullable=False),
    Column("run_id", _Id, nullable=False),
    Column("item_sealed", LargeBinary, nullable=False),
    Index("bf_items_by_thread", "thread_id", "id"),
    sqlite_autoincrement=True,
)

_under_way = text(f"state IN {UNDER_WAY}")

runs = Table(
    "bf_runs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("thread_id", _Id, ForeignKey("bf_threads.id", ondelete="CASCADE"), nullable=False),
    Column("app", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("outcome", String(16)),
    Column("finish_reason", String(16)),
    Column("error_sealed", LargeBinary),
    Column("usage", Text),
    Column("epoch", Integer, nullable=False, default=1),
    Column("owner", String(120)),
    Column("attempts", Integer, nullable=False, default=0),
    Column("told", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("deadline", Float),
    Column("spec_sealed", LargeBinary, nullable=False),
    Column("secrets_sealed", LargeBinary),
    Index("bf_runs_by_thread", "thread_id", "created_at"),
    Index("bf_runs_by_end", "ended_at"),
    Index(
        "bf_one_run_per_thread",
        "thread_id",
        unique=True,
        sqlite_where=_under_way,
        postgresql_where=_under_way,
    ),
    Index(
        "bf_runs_open",
        "owner",
        sqlite_where=text("told = 0"),
        postgresql_where=text("told = 0"),
    ),
)
"""Its states are in `states`. `outcome` is written once; `secrets` are erased at the end.

`told` is set when the plugins know of the end: then nobody has to do anything for the run any more."""

messages = Table(
    "bf_messages",
    metadata,
    Column("run_id", _Id, ForeignKey("bf_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("first_seq", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("end_offset", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("data_sealed", LargeBinary, nullable=False),
)
"""The event log. A message without events has last_seq < first_seq."""

steps = Table(
    "bf_steps",
    metadata,
    Column("run_id", _Id, ForeignKey("bf_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("usage", Text),
    Column("parent_sealed", LargeBinary),
    Column("handle_sealed", LargeBinary),
    Column("ended_sealed", LargeBinary),
)
"""A step has its parent state before the provider is asked, then its handle, at last what the driver needs to go on."""

calls = Table(
    "bf_calls",
    metadata,
    Column("run_id", _Id, ForeignKey("bf_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("tool_call_id", _Id, unique=True),
    Column("deadline", Float),
    Column("arguments_sealed", LargeBinary, nullable=False),
    Column("result_sealed", LargeBinary),
)
"""`tool_call_id` names those that a page answers.

The key is a call's step and position, since not every provider's call ids are unique in a run."""

keys = Table(
    "bf_idempotency",
    metadata,
    Column("app", String(200), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("body", String(64), nullable=False),
    Column("run_id", _Id, ForeignKey("bf_runs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("answer_sealed", LargeBinary),
)
"""Which run an idempotency key stands for; `key` and `body` are digests."""

owners = Table(
    "bf_owners",
    metadata,
    Column("id", String(120), primary_key=True),
    Column("beat_at", Float, nullable=False),
    Column("has_left", Integer, nullable=False),
)
"""Processes that drive runs, where no file lock tells whether they live (Postgres)."""

plugin_values = Table(
    "bf_plugin_values",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("plugin", String(200), nullable=False),
    Column("value_sealed", LargeBinary),
    Column("expires_at", Float, index=True),
)
"""What plugins keep; `key` is a digest of the plugin's name and the key's."""

schema = Table("bf_schema", metadata, Column("version", Integer, primary_key=True))
"""One row: which version of these tables this is. Every change of a table here is a new step in `migrations.py`."""
