"""Why a call gave no result, in words for the model, and what the model is to do about it."""

from __future__ import annotations

from enum import Enum


class Remedy(Enum):
    """What the model can do about a failure; the value is what it is told."""

    ARGUMENTS = "Call it again with other arguments, or tell the user."
    LATER = "Try once more in a moment; if it fails again, tell the user."
    OPERATOR = "Calling it again does not help: tell the user that this is not available now."
    ASK = "Tell the user what happened."
    UNKNOWN = "It may have taken effect: do not call it again without asking the user."
    REPEAT = "It is safe to call it again, once."


class Failure(Exception):
    """A call without a result.

    `what` is a clause about what happened and holds no secret and no address; `said` is what script or server said
    about it, for the model only. `advice` is for the operator, who finds it in the log: what to look at. `code` is
    FileMaker's, if it was FileMaker that failed.
    """

    def __init__(self, what: str, remedy: Remedy, *, said: str = "", advice: str = "", code: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.said = said
        self.advice = advice
        self.code = code

    def told(self, tool: str, *, idempotent: bool) -> str:
        """Return what the model reads. What may have happened already may be repeated only where that does no harm."""
        remedy = Remedy.REPEAT if self.remedy is Remedy.UNKNOWN and idempotent else self.remedy
        said = f", and said: {self.said.rstrip('.')}" if self.said else ""
        return f"Error: {tool}: {self.what}{said}. {remedy.value}"

    def logged(self) -> str:
        """Return what the operator reads: nothing that was said in a run."""
        return f"{self.what}: {self.advice}" if self.advice else self.what
