"""The hooks: limits when a run starts and ends, rules for each piece of its text in between."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from bf_hook_guard.limits import Limits
from bf_hook_guard.scanner import Scan, Scanner
from bf_plugin import Delta, Outcome, Run, RunDraft, hookimpl, in_thread

_SCAN = "guard.scan"

_log = logging.getLogger("bf_hook_guard")


class Limiter:
    """Keeps limits; without rules for the text, so that deltas cost nothing."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    @hookimpl(trylast=True)
    def before_run(self, run: RunDraft) -> None:
        """Refuse what is over a limit: last of all, since what another plugin refuses should not count."""
        self._limits.admit(run)

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        """Log which rules found something, and count what the run has used."""
        scan = run.scratch.pop(_SCAN, None)
        if isinstance(scan, Scan) and scan.applied:
            found = ", ".join(f"{rule} {times}" for rule, times in sorted(scan.applied.items()))
            _log.info("found in run %s of app %s, by rule: %s", run.id, run.app, found)
        self._limits.count(run, outcome)


class Guard(Limiter):
    """Goes through the text on the event loop."""

    def __init__(self, limits: Limits, by_app: Mapping[str, Scanner | None], others: Scanner | None) -> None:
        super().__init__(limits)
        self._by_app = by_app
        self._others = others

    @hookimpl
    def on_delta(self, run: Run, delta: Delta) -> None:
        """Let go what no rule forbids."""
        scan = run.scratch.get(_SCAN)
        if scan is None:
            scanner = self._by_app.get(run.app, self._others)
            if scanner is None:
                return
            scan = run.scratch[_SCAN] = Scan(scanner, run)
        delta.text = scan.feed(delta.text, final=delta.final)


class PatientGuard(Guard):
    """Goes through the text in a worker thread, for callbacks that block."""

    @hookimpl
    @in_thread
    def on_delta(self, run: Run, delta: Delta) -> None:
        """Let go what no rule forbids."""
        super().on_delta(run, delta)
