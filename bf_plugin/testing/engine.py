"""An engine that plays a script: runs without a provider, for fast tests of hooks and of the driver.

```python
engine = ScriptedEngine(["Hello ", gate, "world", call("look", {"at": "it"})], "and goodbye")
```
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bf_plugin.engines.port import (
    Access,
    BaseEngine,
    BaseStream,
    Cursor,
    Handle,
    State,
    StepDone,
    StepRequest,
    Take,
    Text,
)
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, text_message
from bf_plugin.testing.gate import Gate
from bf_plugin.values import FinishReason, Usage

Piece = str | FunctionCall | Exception | Gate | Callable[[], Awaitable[object]]
"""What happens next in a step: text, a call, a failure, or something to wait for."""


def call(name: str, arguments: Mapping[str, Any] | str = "{}", call_id: str = "call_1") -> FunctionCall:
    """Return a function call for a script; `arguments` as an object or as its JSON text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": text}


class ScriptedEngine(BaseEngine):
    """Plays one script per step, in order; `requests`, `resumed` and `cancelled` record what it was asked.

    `accesses` records with which access steps were started and resumed.

    A script is a sequence of pieces, or one text. An exception as its first piece refuses the step. `usage` is what
    each step reports. A step beyond the scripts fails its run; `assert_played` fails a test for that, and for scripts
    that are left.
    """

    def __init__(self, *scripts: Sequence[Piece], usage: Usage | None = None, finish_reason: FinishReason = "stop"):
        self._scripts = [[script] if isinstance(script, str) else script for script in scripts]
        self._usage = usage or Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
        self._finish_reason = finish_reason
        self._beyond: list[int] = []
        self.requests: list[StepRequest] = []
        self.cancelled: list[Handle] = []
        self.resumed: list[tuple[Handle, Cursor]] = []
        self.accesses: list[Access] = []
        self.responses: dict[str, Sequence[Piece]] = {}
        self.before_accept: Callable[[], Awaitable[object]] | None = None

    @property
    def unused(self) -> int:
        """How many scripts were not played."""
        return len(self._scripts)

    def assert_played(self) -> None:
        """Raise AssertionError unless each script was played, and none was missing."""
        if self._beyond:
            raise AssertionError(f"the model was asked more often than scripted: step {self._beyond[0]} has no script")
        if self._scripts:
            raise AssertionError(f"{self.unused} script(s) were never asked for, the first: {self._scripts[0]!r}")

    async def start(self, request: StepRequest, access: Access) -> ScriptedStream:
        """Accept the step, or refuse it."""
        self.requests.append(request)
        self.accesses.append(access)
        if not self._scripts:
            self._beyond.append(request.number)
            raise AssertionError(f"step {request.number} has no script")
        script = self._scripts.pop(0)
        if self.before_accept is not None:
            await self.before_accept()
        if script and isinstance(script[0], Exception):
            raise script[0]
        response_id = f"resp_{len(self.requests)}"
        self.responses[response_id] = script
        return ScriptedStream(response_id, script, self._usage, self._finish_reason)

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> ScriptedStream:
        """Go on with the script of a response behind the cursor; without that script the response is lost."""
        self.resumed.append((handle, cursor))
        self.accesses.append(access)
        script = self.responses.get(handle["response_id"])
        if script is None:
            raise ProviderError("no such response", code="provider_lost_response")
        known = cursor.texts.get((0, 0), "")
        said = "".join(piece for piece in script if isinstance(piece, str))
        rest: list[Piece] = [said[len(known) :]] if said[len(known) :] else []
        rest += [piece for piece in script if isinstance(piece, dict)]
        return ScriptedStream(handle["response_id"], rest, self._usage, self._finish_reason, before=known)

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        """Note the cancel."""
        self.cancelled.append(handle)
        return None

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        """Keep the last good response."""
        return state

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


class ScriptedStream(BaseStream):
    """One step of a script."""

    def __init__(
        self,
        response_id: str,
        script: Sequence[Piece],
        usage: Usage,
        finish_reason: FinishReason,
        *,
        before: str = "",
    ) -> None:
        self._before = before
        self.handle: Handle = {"response_id": response_id}
        self._script = script
        self._usage = usage
        self._finish_reason = finish_reason
        self.closed = False

    async def read(self, take: Take) -> None:
        """Play the script, one event a batch."""
        text = [self._before]
        calls: list[FunctionCall] = []
        for sequence, piece in enumerate(self._script):
            if isinstance(piece, str):
                text.append(piece)
                take([Text(piece, sequence)])
            elif isinstance(piece, Exception):
                raise piece
            elif isinstance(piece, dict):
                calls.append(piece)
            else:
                await (piece.passed() if isinstance(piece, Gate) else piece())
        take([self._done("".join(text), calls)])

    async def aclose(self) -> None:
        """Note that the driver let go."""
        self.closed = True

    def _done(self, text: str, calls: list[FunctionCall]) -> StepDone:
        said: list[Item] = [text_message("assistant", text)] if text else []
        return StepDone(
            state=self.handle,
            items=[*said, *calls],
            calls=calls,
            content=[{"type": "text", "text": {"value": text}}] if text else [],
            usage=self._usage,
            finish_reason=self._finish_reason,
        )
