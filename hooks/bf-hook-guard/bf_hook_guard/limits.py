"""What an app may use in a period: runs are counted when they start, tokens and cost when they are over.

The counters are in the plugin's store, so all processes of a deployment count together, over restarts too. Where the
store fails, nothing starts: a limit that cannot be read is taken for one that is reached.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import NoReturn

from bf_hook_guard.budgets import Budget, Period, What
from bf_hook_guard.settings import LimitSettings, Price
from bf_plugin import Outcome, PluginStore, Run, RunDraft, RunRejected
from bf_plugin.errors import JournalError

_REMEMBERED = 24 * 3600.0
"""Seconds for which it is known that a run is counted: it may be told of twice, after a crash."""

_RETRY_AFTER = 5.0
"""Seconds after which a start may try again that a failing store has refused."""

_log = logging.getLogger("bf_hook_guard")


class Limits:
    """Refuses starts of apps that have used what they may. Each call blocks, for a query or a commit a budget."""

    def __init__(
        self,
        limits: Sequence[LimitSettings],
        prices: Mapping[str, Price],
        store: PluginStore,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._prices = prices
        self._store = store
        self._now = now

    def admit(self, run: RunDraft) -> None:
        """Count a start, or refuse it.

        Raises RunRejected: 429, with the time until the next period; 403 for a model without a price where the cost is
        limited; 503 when the store fails.
        """
        budgets = self._budgets(run.app)
        if run.model is not None and any(one.what == "cost" for one in budgets) and self._price(run.model) is None:
            raise RunRejected(403, f"the model {run.model} has no price here, so this app's budget cannot be kept")
        try:
            self._take(budgets)
        except JournalError as error:
            _log.error("a run of app %s is refused, since its limits cannot be read: %s", run.app, error)
            message = "the limits of this app cannot be read, so nothing can start: try again"
            raise RunRejected(503, message, retry_after=_RETRY_AFTER) from None

    def _take(self, budgets: Sequence[Budget]) -> None:
        """Count a start where nothing is used up.

        All is looked at before anything is counted, so that a refusal takes no write. Two that look at the same time
        are told apart by the counter: the one that brings it above the limit takes back what it has counted.
        """
        for budget in budgets:
            if self._store.get(budget.key, 0) >= budget.most:
                self._refuse(budget)
        counted: list[Budget] = []
        for budget in (one for one in budgets if one.what == "runs"):
            counted.append(budget)
            if self._add(budget, 1) > budget.most:
                for one in counted:
                    self._add(one, -1)
                self._refuse(budget)

    def count(self, run: Run, outcome: Outcome) -> None:
        """Count what a run has used, in the period in which it ended. Told twice, it counts once."""
        budgets = [budget for budget in self._budgets(run.app) if budget.what != "runs"]
        if not budgets:
            return
        try:
            self._add_up(budgets, run, outcome)
        except JournalError as error:
            used = outcome.usage.total_tokens
            _log.error("run %s of app %s is not (wholly) counted: %d tokens (%s)", run.id, run.app, used, error)

    def _add_up(self, budgets: Sequence[Budget], run: Run, outcome: Outcome) -> None:
        mark = f"counted {run.id}"
        if self._store.get(mark) is not None:
            return
        for budget in budgets:
            used = outcome.usage.total_tokens if budget.what == "tokens" else self._cost(run, outcome)
            self._add(budget, used)
            if outcome.usage.estimated:
                self._store.increment(budget.estimated_key, used, ttl=budget.ttl(self._now()))
        self._store.put(mark, True, ttl=_REMEMBERED)

    def _budgets(self, app: str) -> list[Budget]:
        """Return an app's budgets of now: the least of each kind, short periods first."""
        now = self._now()
        most: dict[tuple[Period, What], int] = {}
        for limit in (one for one in self._limits if one.is_for(app)):
            for what, amount in limit.amounts().items():
                most[limit.period, what] = min(amount, most.get((limit.period, what), amount))
        budgets = [
            Budget.at(now, app=app, what=what, period=period, most=amount) for (period, what), amount in most.items()
        ]
        return sorted(budgets, key=lambda budget: budget.end)

    def _price(self, model: str) -> Price | None:
        return self._prices.get(model) or self._prices.get("*")

    def _cost(self, run: Run, outcome: Outcome) -> int:
        """Return what a run has cost, in millionths: prices are those of a million tokens."""
        price = self._price(run.model)
        if price is None:  # it was allowed when the run began
            _log.error("a run of app %s is not in its cost: the model %s has no price", run.app, run.model)
            return 0
        usage = outcome.usage
        return math.ceil(usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion)

    def _add(self, budget: Budget, amount: int) -> float:
        return self._store.increment(budget.key, amount, ttl=budget.ttl(self._now()))

    def _refuse(self, budget: Budget) -> NoReturn:
        begins = datetime.fromtimestamp(budget.end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = f"this app has used its {budget} of this {budget.period}"
        if estimated := self._store.get(budget.estimated_key, 0):
            said += f" ({estimated / budget.unit:g} are estimated)"
        _log.warning("a run of app %s is refused: %s", budget.app, said)
        raise RunRejected(429, f"{said}; the next begins at {begins}", retry_after=math.ceil(budget.left(self._now())))
