"""Values on their way from one form of a run into another."""

from __future__ import annotations

from dataclasses import fields

from bf_plugin.engines.port import Access, StepRequest
from bf_plugin.journal import CANCELLED, RunSpec
from bf_plugin.journal.records import Opened, shared
from bf_plugin.run.driver import run_of
from bf_plugin.run.exchange import access_of
from bf_plugin.testing.records import a_run
from bf_plugin.values import Run, RunDraft


def test_what_two_forms_share_goes_from_one_into_the_other() -> None:
    """By name, and nothing else: the rest is said where the new value is made."""
    opened = Opened(state={"x": 1}, synced=3, new=[])

    assert shared(opened, StepRequest) == {"state": {"x": 1}, "new": []}


def test_a_run_keeps_all_that_plugins_saw_of_its_draft() -> None:
    """Every field of a draft is in the spec of the run, or in its row; and plugins are given it again."""
    own = {"id", "thread_id", "app", "new_thread"}
    draft, spec, run = ({field.name for field in fields(kind)} for kind in (RunDraft, RunSpec, Run))

    assert draft - own <= spec
    assert draft - {"new_thread"} <= run


def test_a_record_becomes_what_hooks_and_engines_are_given() -> None:
    """Lists become tuples, since a hook must not change them; the key comes from the secrets."""
    record = a_run(spec={"traceparent": "00-1-2-01"})
    run = run_of(record)

    assert (run.id, run.thread_id, run.model) == (record.id, record.thread_id, record.spec.model)
    assert (run.tools, run.messages) == (tuple(record.spec.tools), tuple(record.spec.messages))
    assert run.started_at == record.created_at
    assert record.secrets is not None
    expected = Access(
        api_key=record.secrets.provider_key,
        base_url=record.spec.base_url,
        request_id=record.spec.request_id,
        traceparent="00-1-2-01",
    )
    assert access_of(record) == expected


def test_how_a_record_ended() -> None:
    """None before its outcome; then the ending on record, which nobody has just won."""
    assert a_run().ending is None

    ending = a_run(state="ended", outcome="cancelled", finish_reason="cancelled").ending

    assert ending is not None
    assert (ending.status, ending.finish_reason, ending.won) == (CANCELLED.status, CANCELLED.finish_reason, False)
