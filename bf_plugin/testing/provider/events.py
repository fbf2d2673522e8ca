"""Turns a reply into the events of a response, in OpenAI's order and shape.

Shapes are those of `openai.types.responses`; the order is that of the API reference's streaming examples.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from bf_plugin.testing.gate import Gate
from bf_plugin.testing.provider.encoding import encode, join_surrogates, split_surrogates
from bf_plugin.testing.provider.script import (
    Call,
    Chunk,
    Failed,
    ForeignEvent,
    Incomplete,
    Item,
    Pause,
    Reasoning,
    Refusal,
    Reply,
    StreamError,
    Text,
)
from bf_plugin.testing.provider.state import JsonObject, ResponseRecord, new_id

Step = bytes | Gate | Pause
"""An event, or what to wait for before the next one."""


class Composer:
    """Writes the events of one response and keeps its record up to date while it does."""

    def __init__(self, record: ResponseRecord) -> None:
        self._record = record
        self._quirks = record.quirks
        self._numbered = "no_sequence_numbers" not in record.quirks
        self._sequence = 1 if "sequence_from_one" in record.quirks else 0
        options = record.body.get("stream_options") or {}
        self._obfuscated = options.get("include_obfuscation") is not False
        self._unfinished: Item | None = None

    def opening(self) -> Iterator[bytes]:
        """Yield what comes before the first item."""
        background = self._record.background
        self._record.status = "queued" if background else "in_progress"
        if "no_created" in self._quirks:
            self._record.status = "in_progress"
            return
        yield self._snapshot("response.created")
        if background:
            yield self._snapshot("response.queued")
            self._record.status = "in_progress"
        yield self._snapshot("response.in_progress")

    def content(self, reply: Reply) -> Iterator[Step]:
        """Yield the items of a reply; what ends incomplete leaves its last item incomplete."""
        if isinstance(reply.ending, Incomplete) and reply.parts:
            last = reply.parts[-1]
            self._unfinished = None if isinstance(last, (Gate, Pause, ForeignEvent)) else last
        for part in reply.parts:
            if isinstance(part, (Gate, Pause)):
                yield part
            elif isinstance(part, ForeignEvent):
                yield self.event(part.type, **part.fields)
            else:
                yield from self._item(part, reply.delay)

    def ending(self, reply: Reply) -> bytes:
        """Return the last event, with the record in its last state."""
        record, ending = self._record, reply.ending
        if isinstance(ending, StreamError):
            record.status = "failed"
            record.error = {"code": "server_error", "message": ending.message}
            return self._error(ending)
        if "no_usage" not in self._quirks:
            record.usage = usage(record, reply)
        if isinstance(ending, Failed):
            record.status, record.error = "failed", {"code": ending.code, "message": ending.message}
        elif isinstance(ending, Incomplete):
            record.status, record.incomplete_details = "incomplete", {"reason": ending.reason}
        elif quirk := self._quirks.get("incomplete_completed"):
            record.status, record.incomplete_details = "incomplete", {"reason": quirk["reason"]}
            return self._snapshot("response.completed")
        else:
            record.status = "completed"
        return self._snapshot(f"response.{record.status}")

    def cancelled(self) -> bytes:
        """Return the last event of a cancelled response; there is no `response.cancelled`."""
        return self._snapshot("response.failed")

    def event(self, kind: str, **fields: Any) -> bytes:
        """Return one framed event with the next sequence number."""
        payload: JsonObject = {"type": kind}
        if self._numbered:
            payload["sequence_number"] = self._next()
        payload.update(fields)
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(payload))

    def _next(self) -> int:
        number = self._sequence
        self._sequence += 1
        return number

    def _snapshot(self, kind: str) -> bytes:
        return self.event(kind, response=self._record.snapshot())

    def _error(self, ending: StreamError) -> bytes:
        described: JsonObject = {"code": ending.code, "message": ending.message, "param": ending.param}
        self._record.stream_error = {"type": "server_error", **described}
        if not ending.nested:
            return self.event("error", **described)
        return self.event("error", error=self._record.stream_error)

    def _item(self, part: Item, delay: float) -> Iterator[Step]:
        index = len(self._record.output)
        self._record.log.item_starts[index] = len(self._record.log.frames)
        if isinstance(part, Call):
            yield from self._call(part, index, delay)
        elif isinstance(part, Reasoning):
            yield from self._reasoning(part, index, delay)
        else:
            yield from self._message(part, index, delay)

    def _message(self, part: Text | Refusal, index: int, delay: float) -> Iterator[Step]:
        item: JsonObject = {"id": new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
        content: JsonObject = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        field, kind = "text", "response.output_text"
        if isinstance(part, Refusal):
            content, field, kind = {"type": "refusal", "refusal": ""}, "refusal", "response.refusal"
        yield self._added(item, index, content=[])
        where = {"item_id": item["id"], "output_index": index, "content_index": 0}
        yield self.event("response.content_part.added", **where, part=dict(content))
        item["content"] = [content]
        chunks = self._record.open(content, field)
        extra = b',"logprobs":[]' if field == "text" else b""
        for step in self._deltas(f"{kind}.delta", where, part.chunks, delay, extra):
            if isinstance(step, str):
                chunks.append(step)
                self._record.deltas.append(step)
            else:
                yield step
        self._record.settle()
        for number, annotation in enumerate(part.annotations if isinstance(part, Text) else ()):
            content["annotations"] = [*content["annotations"], dict(annotation)]
            added = {**where, "annotation_index": number, "annotation": dict(annotation)}
            yield self.event(f"{kind}.annotation.added", **added)
        if "no_text_done" not in self._quirks:
            logprobs: JsonObject = {"logprobs": []} if field == "text" else {}
            yield self.event(f"{kind}.done", **where, **{field: content[field]}, **logprobs)
            yield self.event("response.content_part.done", **where, part=dict(content))
        yield self._done(item, index, incomplete=part is self._unfinished)

    def _call(self, part: Call, index: int, delay: float) -> Iterator[Step]:
        item: JsonObject = {"id": new_id("fc"), "type": "function_call", "status": "in_progress", "arguments": ""}
        item |= {"call_id": part.call_id or "call_" + secrets.token_hex(12), "name": part.name}
        yield self._added(item, index)
        where = {"item_id": item["id"], "output_index": index}
        chunks = self._record.open(item, "arguments")
        for step in self._deltas("response.function_call_arguments.delta", where, part.chunks, delay):
            if isinstance(step, str):
                chunks.append(step)
            else:
                yield step
        self._record.settle()
        yield self.event("response.function_call_arguments.done", **where, arguments=item["arguments"])
        yield self._done(item, index, incomplete=part is self._unfinished)

    def _reasoning(self, part: Reasoning, index: int, delay: float) -> Iterator[Step]:
        item: JsonObject = {"id": new_id("rs"), "type": "reasoning", "summary": []}
        yield self._added(item, index)
        where = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        yield self.event("response.reasoning_summary_part.added", **where, part={"type": "summary_text", "text": ""})
        chunks: list[str] = []
        for step in self._deltas("response.reasoning_summary_text.delta", where, part.chunks, delay):
            if isinstance(step, str):
                chunks.append(step)
            else:
                yield step
        summary = {"type": "summary_text", "text": join_surrogates("".join(chunks))}
        yield self.event("response.reasoning_summary_text.done", **where, text=summary["text"])
        yield self.event("response.reasoning_summary_part.done", **where, part=summary)
        item["summary"] = [summary]
        yield self._done(item, index)

    def _added(self, item: JsonObject, index: int, **shown: Any) -> bytes:
        self._record.output.append(item)
        return self.event("response.output_item.added", output_index=index, item={**item, **shown})

    def _done(self, item: JsonObject, index: int, *, incomplete: bool = False) -> bytes:
        if "status" in item:
            item["status"] = "incomplete" if incomplete else "completed"
        return self.event("response.output_item.done", output_index=index, item=dict(item))

    def _deltas(
        self, kind: str, where: JsonObject, chunks: tuple[Chunk, ...], delay: float, extra: bytes = b""
    ) -> Iterator[Step | str]:
        """Yield each delta as text just before its event; the event is put together from ready-made bytes."""
        head = b'event: %b\ndata: {"type":"%b",' % (kind.encode(), kind.encode())
        place = encode(where)[1:-1] + b',"delta":'
        waiting = Pause(delay, paced=True) if delay else None
        for chunk in chunks:
            if isinstance(chunk, (Gate, Pause)):
                yield chunk
                continue
            if isinstance(chunk, ForeignEvent):
                yield self.event(chunk.type, **chunk.fields)
                continue
            for delta in split_surrogates(chunk) if "lone_surrogates" in self._quirks else (chunk,):
                if waiting:
                    yield waiting
                number = b'"sequence_number":%d,' % self._next() if self._numbered else b""
                tail = extra + self._obfuscation()
                yield delta
                yield b"%b%b%b%b%b}\n\n" % (head, number, place, encode(delta), tail)

    def _obfuscation(self) -> bytes:
        return b',"obfuscation":"%b"' % secrets.token_urlsafe(9).encode() if self._obfuscated else b""


def usage(record: ResponseRecord, reply: Reply) -> JsonObject:
    """Return the scripted usage, else one counted at four characters a token."""
    if reply.usage is not None:
        asked, answered = reply.usage
    else:
        asked = _tokens([*record.history, *record.input]) + _tokens(record.body.get("instructions"))
        answered = _tokens(record.output)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + answered,
    }


def _tokens(value: Any) -> int:
    if isinstance(value, str):
        return max(1, len(value) // 4)
    if isinstance(value, dict):
        return sum(_tokens(value.get(key)) for key in ("content", "text", "refusal", "arguments", "output"))
    return sum(_tokens(element) for element in value) if isinstance(value, list) else 0
