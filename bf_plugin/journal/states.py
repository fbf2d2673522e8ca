"""The states that runs, steps, tool calls and messages go through in the journal, and how a run may end.

These are plain strings, as the tables hold them. The types make mypy refuse a word that is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from bf_plugin.values import FinishReason, Status

RunState = Literal["queued", "starting", "active", "ending", "ended"]

QUEUED: Final = "queued"
"""The run waits behind another run of its thread. A stop leaves it here until it is `ended`."""
STARTING: Final = "starting"
"""The run holds its thread, and the provider has not named a response yet."""
ACTIVE: Final = "active"
"""The provider has named a response of the run."""
ENDING: Final = "ending"
"""The run has its outcome, and a driver still has to send `end`."""
ENDED: Final = "ended"
"""`end` is sent or given up, the keys are erased, and the thread is free."""

UNDER_WAY: Final[tuple[RunState, ...]] = (STARTING, ACTIVE, ENDING)
"""The states of a run that holds its thread: at most one run of a thread is in any of them."""

NEXT_STATES: Final[Mapping[RunState, tuple[RunState, ...]]] = {
    QUEUED: (STARTING, ENDED),
    STARTING: (ACTIVE, ENDING),
    ACTIVE: (ENDING,),
    ENDING: (ENDED,),
    ENDED: (),
}
"""Where a run may go from each state. A run that the provider refused is removed while it is `starting`."""

StepState = Literal["creating", "named", "done"]

CREATING: Final = "creating"
"""The provider is about to be asked, or was asked and has not answered."""
NAMED: Final = "named"
"""The provider's name of the response is on record, so the response can be followed and cancelled."""

CallState = Literal["pending", "started", "done"]

PENDING: Final = "pending"
"""The model asked for the call, and nothing was done about it."""
STARTED: Final = "started"
"""The tool may have run, or a page may have been asked."""
DONE: Final = "done"
"""The end of the step, or the result of the call, is on record."""

MessageState = Literal["sealed", "accepted", "unsent"]

SEALED: Final = "sealed"
"""The message is committed and is to be sent. It was accepted if another message of its run follows it."""
ACCEPTED: Final = "accepted"
"""The gateway has accepted the message."""
UNSENT: Final = "unsent"
"""The message is not sent: nobody receives messages of its run, or the gateway refused it."""

STATUS_OF: Final[Mapping[FinishReason, Status]] = {
    "stop": "completed",
    "length": "completed",
    "content_filter": "completed",
    "error": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
"""The outcome that a finish reason stands for: the model came to its end (by itself, at the limit of tokens, at the
provider's filter), something failed, somebody stopped the run, or its time was over."""
