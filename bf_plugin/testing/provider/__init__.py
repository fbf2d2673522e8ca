"""A model provider for tests and demos: OpenAI's Responses and Conversations APIs as a real HTTP server.

It answers as OpenAI is known to, refuses what OpenAI refuses with the same status and code, and can be told to
misbehave in every way that real servers have been seen to. It needs no key, no network and no script:

```python
from bf_plugin.testing.provider import Gate, ProviderSimulator, call, event, failed, text

with ProviderSimulator() as provider:
    provider.base_url  # "http://127.0.0.1:PORT/v1": give it to a client
```

Without a script the *demo brain* answers (`bf_plugin.testing.provider.demo` says what it reacts to). `python -m
bf_plugin.testing.provider --port 0` runs it as a process of its own and prints the base URL as the first line.

**Scripts.** Each argument of `script` is one response, used in order of arrival; the brain answers when none is
left.

```python
provider.script(
    "one delta",
    text("exactly ", "these ", "deltas"),
    [call("getCurrentWeather", {"location": "Paris"}), call("getCurrentWeather", {"location": "Rome"})],
    [text("so far ", event("keepalive"), "so good"), failed("and then this")],
)
# ... and at the end of the test: provider.assert_script_used()
```

`refusal`, `reasoning`, `incomplete`, `error`, `pause` and `words` build the other pieces; `reply(..., usage=(10,
20), delay=0.01)` adds usage and a pace. A function does it too: `provider.brain = lambda request:
text(request.user_texts[-1])`; it gets a `BrainRequest` and returns whatever `script` takes.

**Stopping in mid-stream.** A `Gate` between two deltas holds the response until the test releases it, so no test
sleeps:

```python
gate = Gate()
provider.script(text("before ", gate, "after"))
# ... start a run, then:
# gate.wait_reached(); look around, stop the run, kill something; gate.release()
```

`provider.wait_until(lambda: ...)` waits for anything else that shows in the records.

**Looking afterwards.** `provider.requests` has each request (method, path, operation, query, body, headers without
the key, the key itself as `key`), `provider.responses` each response by id (`status`, `text` generated so far even
if it was cut off, `output`, `usage`, `body`), `provider.conversations` each conversation with its committed
`items`. Set `visible = False` on a response to let it expire.

**Misbehaving.** `provider.fault(name, times=..., **arguments)` turns a switch on: for the next `times` requests it
applies to, or until `clear_faults`. The returned `Fault` counts in `used`. `SWITCHES` describes all of them; some
take `on`, an operation: create, retrieve, resume, cancel, delete, input_items, conversations.create (.retrieve,
.update, .delete), items.create (.list, .retrieve, .delete), models, or "*".

```python
provider.fault("status", status=429, retry_after=2, times=1)
provider.fault("stream_drops", after=5, times=1)
provider.fault("refuse_parameter", param="background")
```

**What it takes for granted**, where OpenAI's behaviour is only reported: conversation items are committed when a
response completes; a response that is cut off (cancelled, or a foreground one whose client went away) commits
nothing; a cancelled one comes back with an empty output, its stream ends with `response.failed`; only completed
and incomplete responses can be continued; what one key made, another cannot see. The faults turn each of these
around.

Everything runs on one asyncio loop in a thread of its own. Brains are called on that loop; records are written
there and may be read from any thread.
"""

from __future__ import annotations

from bf_plugin.testing.gate import Gate
from bf_plugin.testing.provider.brain import Brain, BrainRequest
from bf_plugin.testing.provider.faults import SWITCHES, Fault
from bf_plugin.testing.provider.recording import RecordedRequest
from bf_plugin.testing.provider.script import (
    Answer,
    Reply,
    call,
    error,
    event,
    failed,
    incomplete,
    pause,
    reasoning,
    refusal,
    reply,
    text,
    words,
)
from bf_plugin.testing.provider.simulator import ProviderSimulator
from bf_plugin.testing.provider.state import ConversationRecord, ResponseRecord

__all__ = [
    "SWITCHES",
    "Answer",
    "Brain",
    "BrainRequest",
    "ConversationRecord",
    "Fault",
    "Gate",
    "ProviderSimulator",
    "RecordedRequest",
    "Reply",
    "ResponseRecord",
    "call",
    "error",
    "event",
    "failed",
    "incomplete",
    "pause",
    "reasoning",
    "refusal",
    "reply",
    "text",
    "words",
]
