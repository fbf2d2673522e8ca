"""The dialects: what they make of a script are the streams of the providers' documentation, read in
November 2026 through their SDKs, whose types name the same fields:

* Anthropic, "Streaming messages" and "Errors": `message_start`, `content_block_*`, `message_delta`, `message_stop`.
* Gemini API, "models.streamGenerateContent" with `alt=sse`, and "Thought signatures".
* OpenAI API reference, "Create chat completion", "The chat completion chunk object".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from providers_support.dialect import Dialect, Request
from providers_support.script import Call, Pause, sse


class Anthropic(Dialect):
    name = "anthropic"
    model = "claude-sonnet-5"
    path = "/v1/messages"

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "tool_use" if any(isinstance(piece, Call) for piece in script) else "end_turn"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        usage = {"input_tokens": 20, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": self.model}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield sse({"type": "message_start", "message": message}, "message_start")
        yield sse({"type": "ping"}, "ping")
        index, open_text = -1, False
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                if not open_text:
                    index, open_text = index + 1, True
                    yield self._block(index, {"type": "text", "text": ""})
                yield self._delta(index, {"type": "text_delta", "text": piece})
            else:
                if open_text:
                    yield self._stop(index)
                index, open_text = index + 1, False
                yield self._block(index, {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
                text = json.dumps(piece.arguments) if piece.arguments else ""
                for part in ("", text[:5], text[5:]):
                    yield self._delta(index, {"type": "input_json_delta", "partial_json": part})
                yield self._stop(index)
        if open_text:
            yield self._stop(index)
        delta = {"stop_reason": finish, "stop_sequence": None}
        usage = {"output_tokens": 7}
        yield sse({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        yield sse({"type": "message_stop"}, "message_stop")

    def _block(self, index: int, block: dict[str, Any]) -> bytes:
        data = {"type": "content_block_start", "index": index, "content_block": block}
        return sse(data, "content_block_start")

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return sse({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")

    def _stop(self, index: int) -> bytes:
        return sse({"type": "content_block_stop", "index": index}, "content_block_stop")

    def error(self, status: int, message: str) -> Any:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
        kinds |= {429: "rate_limit_error", 529: "overloaded_error"}
        error = {"type": kinds.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": "req_1"}

    def error_event(self, message: str) -> bytes:
        error = {"type": "overloaded_error", "message": message}
        return sse({"type": "error", "error": error}, "error")

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-api-key") or bearer(request)

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        said = [("system", body["system"])] if body.get("system") else []
        for message in body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            said += [(message["role"], self._block_text(block)) for block in blocks]
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        return [(message["role"], self._entries(message["content"])) for message in body["messages"]]

    def _entries(self, content: Any) -> list[str]:
        if isinstance(content, str):
            return [content]
        entries = []
        for block in content:
            if block["type"] == "tool_use":
                entries.append(f"call {block['id']}")
            elif block["type"] == "tool_result":
                entries.append(f"answer {block['tool_use_id']}")
            else:
                entries.append(json.dumps(block))
        return entries

    def _block_text(self, block: Mapping[str, Any]) -> str:
        if block["type"] == "tool_use":
            return f"{block['name']}({json.dumps(block['input'])})"
        if block["type"] == "tool_result":
            return f"-> {block.get('content', '')}"
        return str(block.get("text", f"<{block['type']}>"))


class Gemini(Dialect):
    name = "gemini"
    model = "gemini-3.8-flash"
    path = "/v1beta/models/gemini-3.8-flash:streamGenerateContent"

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "STOP"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        yield self._chunk([])
        signed = False
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                yield self._chunk([{"text": piece}])
            else:
                part: dict[str, Any] = {"functionCall": {"name": piece.name, "args": piece.arguments}}
                if piece.id:
                    part["functionCall"]["id"] = piece.id
                if not signed:
                    part["thoughtSignature"] = "c2lnbmVkLWJ5LWdlbWluaQ=="
                signed = True
                yield self._chunk([part])
        yield self._chunk([{"text": ""}], finish)

    def _chunk(self, parts: list[Any], finish: str | None = None) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        usage = {"promptTokenCount": 25, "totalTokenCount": 25}
        if finish:
            candidate["finishReason"] = finish
            usage = {"promptTokenCount": 25, "candidatesTokenCount": 4, "thoughtsTokenCount": 3, "totalTokenCount": 32}
        body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": self.model, "responseId": "resp_1"}
        return sse(body).replace(b"\n", b"\r\n")

    def error(self, status: int, message: str) -> Any:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        error: dict[str, Any] = {"code": status, "message": message, "status": names.get(status, "INTERNAL")}
        return {"error": error}

    def error_event(self, message: str) -> bytes:
        return sse({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key")

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        system = body.get("systemInstruction")
        said = [("system", part["text"]) for part in (system or {}).get("parts", ())]
        roles = {"model": "assistant", "user": "user"}
        for content in body["contents"]:
            said += [(roles[content["role"]], self._part_text(part)) for part in content["parts"]]
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        roles = {"model": "assistant", "user": "user"}
        return [(roles[content["role"]], self._entries(content["parts"])) for content in body["contents"]]

    def _entries(self, parts: Sequence[Mapping[str, Any]]) -> list[str]:
        """Calls by name: what is answered is told by the order, where the API gave no ids."""
        entries = []
        for part in parts:
            if "functionCall" in part:
                entries.append(f"call {part['functionCall']['name']}")
            elif "functionResponse" in part:
                entries.append(f"answer {part['functionResponse']['name']}")
            else:
                entries.append(json.dumps(part))
        return entries

    def _part_text(self, part: Mapping[str, Any]) -> str:
        if "functionCall" in part:
            return f"{part['functionCall']['name']}({json.dumps(part['functionCall']['args'])})"
        if "functionResponse" in part:
            return f"-> {part['functionResponse']['response']['output']}"
        return str(part.get("text", f"<{next(iter(part))}>"))


class Chat(Dialect):
    name = "chat"
    model = "llama-4"
    path = "/v1/chat/completions"

    def section(self, url: str, **more: Any) -> dict[str, Any]:
        return {"base_url": f"{url}/v1", **more}

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "tool_calls" if any(isinstance(piece, Call) for piece in script) else "stop"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        yield self._chunk({"role": "assistant", "content": ""})
        number = 0
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                yield self._chunk({"content": piece})
            else:
                text = json.dumps(piece.arguments)
                head = {"index": number, "id": piece.id, "type": "function"}
                yield self._chunk({"tool_calls": [{**head, "function": {"name": piece.name, "arguments": ""}}]})
                for part in (text[:5], text[5:]):
                    yield self._chunk({"tool_calls": [{"index": number, "function": {"arguments": part}}]})
                number += 1
        yield self._chunk({}, finish)
        usage = {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32}
        yield sse({**self._base(), "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _base(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return sse({**self._base(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def error(self, status: int, message: str) -> Any:
        return {"error": {"message": message, "type": "some_error", "param": None, "code": None}}

    def error_event(self, message: str) -> bytes:
        return sse({"error": {"message": message, "type": "server_error", "code": 503}})

    def key_of(self, request: Request) -> str | None:
        return bearer(request)

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        said = []
        for message in body["messages"]:
            who = "user" if message["role"] == "tool" else message["role"]
            content = message.get("content")
            if message["role"] == "tool":
                said.append((who, f"-> {content}"))
            elif isinstance(content, list):
                said += [(who, part.get("text", f"<{part['type']}>")) for part in content]
            elif content:
                said.append((who, content))
            for call in message.get("tool_calls", ()):
                arguments = json.dumps(json.loads(call["function"]["arguments"]))
                said.append((who, f"{call['function']['name']}({arguments})"))
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        turns: list[tuple[str, list[str]]] = []
        for message in body["messages"]:
            if message["role"] in ("system", "developer"):
                continue
            role = "assistant" if message["role"] == "assistant" else "user"
            if not turns or turns[-1][0] != role or role == "assistant":
                turns.append((role, []))
            said = turns[-1][1]
            if message["role"] == "tool":
                said.append(f"answer {message['tool_call_id']}")
            elif message.get("content"):
                said.append(json.dumps(message["content"]))
            said += [f"call {call['id']}" for call in message.get("tool_calls", ())]
        return turns


DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (Anthropic(), Gemini(), Chat())}


def bearer(request: Request) -> str | None:
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None
