"""One log line when a run ends, one when it is stopped. Never what was said."""

from __future__ import annotations

from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.runtime.logs import get_logger
from bf_plugin.values import Outcome, Run, StopReason

_log = get_logger(__name__)


@hookimpl(trylast=True)
def on_end(run: Run, outcome: Outcome) -> None:
    """Say how the run ended and what it took."""
    _log.bind(run_id=run.id, request_id=run.request_id).info(
        "run of %s ended: %s, finish_reason %s, %s, %d steps, %d + %d tokens, %.2f s%s",
        run.app,
        outcome.status,
        outcome.finish_reason,
        run.model,
        len(outcome.steps),
        outcome.usage.prompt_tokens,
        outcome.usage.completion_tokens,
        outcome.duration,
        f", error {outcome.error_code}" if outcome.error_code else "",
    )


@hookimpl(trylast=True)
def on_stop(run: Run, reason: StopReason) -> None:
    """Say why the run is being stopped."""
    _log.bind(run_id=run.id, request_id=run.request_id).info("run of %s is being stopped: %s", run.app, reason)
