"""A server that speaks the Assistants v2 API, over HTTP on 127.0.0.1: threads, messages, runs, streams, tool outputs.

A run goes on whether anybody listens or not, as at OpenAI. What the model says is scripted, one script for each step.
Sources, read in November 2026:

* The SDK `openai` 3.57, `types/beta` and `resources/beta/threads`: paths, fields, events, statuses, who is null when.
  Every event and object sent is checked against these types, every body received against the names in them.
* Reports in public repositories for what is refused, word for word: the error texts below. `code` and `param` are null.
* OpenAI API reference, "Streaming events" of Assistants, in the docstrings of `types/beta/assistant_stream_event.py`.

Guesses: when exactly a cancelled run lets go of its thread, and what of its message is kept (here: all that was said);
that a content filter leaves a run `incomplete`, as Azure describes that status ("due to safety guardrails").
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from openai.types.beta import thread_create_params, thread_update_params
from openai.types.beta.assistant_create_params import AssistantCreateParams
from openai.types.beta.threads import message_create_params, run_create_params
from openai.types.beta.threads.message import Message

from assistants_support.runs import ACTIVE, RunTask, Thread
from assistants_support.script import Cut, End, ErrorEvent, Refused
from bf_plugin.testing import Gate

KEY = "sk-secret-of-the-caller-0123456789"


@dataclass
class Asked:
    """A request that came: method, path below the base, query, headers and body."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class AssistantsServer:
    """The server, in a thread of its own. What it holds is for tests to look at, and to change while nothing runs.

    `refuse` answers the next requests of a method and path; `lines` cuts streams into pieces of so many bytes.
    """

    def __init__(self) -> None:
        self.assistants: dict[str, dict[str, Any]] = {}
        self.threads: dict[str, Thread] = {}
        self.asked: list[Asked] = []
        self.keys = {f"Bearer {KEY}"}
        self.needs_key = True
        self.query: dict[str, str] = {}
        self.streams = True
        self.deletes_messages = True
        self.locks = True
        self.piece: int | None = None
        self.hold_cancelled: Gate | None = None
        self.errors: list[BaseException] = []
        self._scripts: deque[tuple[Any, ...]] = deque()
        self._refusals: list[tuple[str, str, Refused | str]] = []
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="assistants-server", daemon=True)

    def __enter__(self) -> AssistantsServer:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if exc[0] is None:
            assert not self.errors, self.errors
            assert not self._scripts, f"never asked for: {list(self._scripts)}"

    # for tests

    def script(self, *pieces: Any) -> None:
        self._scripts.append(pieces)

    def refuse(self, method: str, ending: str, answer: Refused | str, times: int = 1) -> None:
        """Refuse the next requests whose path ends so; "drop" closes their connections instead."""
        self._refusals += [(method, ending, answer)] * times

    def new_assistant(self, name: str, /, **fields: Any) -> str:
        self.assistants[name] = {"model": "gpt-test", **fields}
        return name

    def wait_until(self, condition: Any, timeout: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), "it did not come to that"

    def paths(self, method: str) -> list[str]:
        return [request.path for request in self.asked if request.method == method]

    def bodies(self, ending: str) -> list[Any]:
        return [one.body for one in self.asked if one.method == "POST" and one.path.endswith(ending)]

    @property
    def thread(self) -> Thread:
        (thread,) = self.threads.values()
        return thread

    @property
    def run(self) -> RunTask:
        return self.thread.runs[-1]

    def said(self, thread: Thread | None = None) -> list[tuple[str, str]]:
        """The messages of the only thread: who, what."""
        return [(one["role"], _shown(one["content"])) for one in (thread or self.thread).messages]

    # the server

    def new_id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers):03d}"

    def next_script(self) -> tuple[Any, ...]:
        if not self._scripts:
            self.errors.append(AssertionError("a step has no script"))
            return (End("failed", message="no script"),)
        return self._scripts.popleft()

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._around])
        app.add_routes(
            [
                web.post("/v1/assistants", self._create_assistant),
                web.post("/v1/threads", self._create_thread),
                web.post("/v1/threads/{thread}", self._change_thread),
                web.delete("/v1/threads/{thread}", self._delete_thread),
                web.post("/v1/threads/{thread}/messages", self._add_message),
                web.get("/v1/threads/{thread}/messages", self._list_messages),
                web.delete("/v1/threads/{thread}/messages/{message}", self._delete_message),
                web.post("/v1/threads/{thread}/runs", self._create_run),
                web.get("/v1/threads/{thread}/runs", self._list_runs),
                web.get("/v1/threads/{thread}/runs/{run}", self._get_run),
                web.post("/v1/threads/{thread}/runs/{run}/cancel", self._cancel_run),
                web.post("/v1/threads/{thread}/runs/{run}/submit_tool_outputs", self._submit),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        path = request.path.removeprefix("/v1")
        self.asked.append(Asked(request.method, path, dict(request.query), dict(request.headers), body))
        self.changed()
        try:
            for number, (method, ending, answer) in enumerate(self._refusals):
                if request.method == method and path.endswith(ending):
                    del self._refusals[number]
                    if isinstance(answer, str):
                        assert request.transport is not None
                        request.transport.close()
                        return web.Response()
                    raise answer
            self._authenticate(request)
            answer = await handler(request)
        except Refused as refused:
            return _refusal(refused)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except BaseException as error:
            self.errors.append(error)
            raise
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def _authenticate(self, request: web.Request) -> None:
        for name, value in self.query.items():
            if request.query.get(name) != value:
                raise Refused(404, "Resource not found")
        if request.headers.get("OpenAI-Beta") != "assistants=v2":
            raise Refused(
                400,
                "You must provide the 'OpenAI-Beta' header to access the Assistants API. "
                "Please try again by setting the header 'OpenAI-Beta: assistants=v2'.",
            )
        sent = request.headers.get("Authorization") or request.headers.get("api-key")
        if self.needs_key and sent not in self.keys:
            raise Refused(401, f"Incorrect API key provided: {sent}." if sent else "You didn't provide an API key.")

    async def _create_assistant(self, request: web.Request) -> Any:
        body = await _known(request, AssistantCreateParams)
        name = self.new_assistant(self.new_id("asst"), **body)
        return {"id": name, "object": "assistant", "created_at": 1, "tools": [], **body}

    async def _create_thread(self, request: web.Request) -> Any:
        body = await _known(request, thread_create_params.ThreadCreateParams)
        messages = body.get("messages") or []
        if len(messages) > 32:
            expected = "Expected an array with maximum length 32, but got an array with length"
            raise Refused(400, f"Invalid 'messages': array too long. {expected} {len(messages)} instead.")
        name, thread = self.new_id("thread"), Thread(resources=_resources(body))
        thread.messages = [self._message(name, message) for message in messages]
        self.threads[name] = thread
        return {"id": name, "object": "thread", "created_at": 1, "metadata": {}, "tool_resources": thread.resources}

    async def _change_thread(self, request: web.Request) -> Any:
        body = await _known(request, thread_update_params.ThreadUpdateParams)
        self._thread_of(request).resources = _resources(body)
        return {"id": request.match_info["thread"], "object": "thread", "created_at": 1, "metadata": {}}

    async def _delete_thread(self, request: web.Request) -> Any:
        self._thread_of(request)
        del self.threads[request.match_info["thread"]]
        return {"id": request.match_info["thread"], "object": "thread.deleted", "deleted": True}

    async def _add_message(self, request: web.Request) -> Any:
        thread, name = self._thread_of(request), request.match_info["thread"]
        for run in thread.runs:
            if run.status in ACTIVE and self.locks:
                raise Refused(400, f"Can't add messages to {name} while a run {run.id} is active.")
        message = self._message(name, await _known(request, message_create_params.MessageCreateParams))
        thread.messages.append(message)
        return message

    def _message(self, thread: str, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("role") not in ("user", "assistant"):
            raise Refused(400, f"Invalid value: '{body.get('role')}'. Supported values are: 'user' and 'assistant'.")
        content = body.get("content")
        if not content:
            raise Refused(400, "Message content must be non-empty.")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        held = []
        for part in parts:
            if part["type"] == "text":
                if not part["text"]:
                    raise Refused(400, "Message content must be non-empty.")
                held.append({"type": "text", "text": {"value": part["text"], "annotations": []}})
                continue
            if part["type"] == "image_url" and not part["image_url"]["url"].startswith("http"):
                raise Refused(400, "Invalid image_url: expected a valid URL, but got a value that is none.")
            held.append(part)
        message = {
            "id": self.new_id("msg"),
            "object": "thread.message",
            "created_at": 1,
            "thread_id": thread,
            "run_id": None,
            "assistant_id": None,
            "role": body["role"],
            "status": "completed",
            "content": held,
            "attachments": body.get("attachments") or [],
            "metadata": body.get("metadata") or {},
        }
        Message.model_validate(message)
        return message

    async def _list_messages(self, request: web.Request) -> Any:
        messages = self._thread_of(request).messages
        run = request.query.get("run_id")
        return _page(request, [one for one in messages if run is None or one["run_id"] == run])

    async def _delete_message(self, request: web.Request) -> Any:
        thread, name = self._thread_of(request), request.match_info["message"]
        if not self.deletes_messages:
            raise Refused(404, f"Unrecognized request URL (DELETE: {request.path}).")
        kept = [message for message in thread.messages if message["id"] != name]
        if len(kept) == len(thread.messages):
            raise Refused(404, f"No message found with id '{name}'.")
        thread.messages = kept
        return {"id": name, "object": "thread.message.deleted", "deleted": True}

    async def _create_run(self, request: web.Request) -> Any:
        thread, name = self._thread_of(request), request.match_info["thread"]
        body = await _known(request, run_create_params.RunCreateParamsBase, "stream", without="thread_id")
        if not body.get("assistant_id"):
            raise Refused(400, "Missing required parameter: 'assistant_id'.")
        if body["assistant_id"] not in self.assistants:
            raise Refused(404, f"No assistant found with id '{body['assistant_id']}'.")
        for run in thread.runs:
            if run.status in ACTIVE and self.locks:
                raise Refused(400, f"Thread {name} already has an active run {run.id}.")
        run = RunTask(self, name, body)
        thread.runs.append(run)
        return await self._streamed(request, run, body, ("created", "queued"))

    async def _list_runs(self, request: web.Request) -> Any:
        return _page(request, [run.object for run in self._thread_of(request).runs])

    async def _get_run(self, request: web.Request) -> Any:
        return self._run_of(request).object

    async def _cancel_run(self, request: web.Request) -> Any:
        run = self._run_of(request)
        if run.status not in ("queued", "in_progress", "requires_action"):
            raise Refused(400, f"Cannot cancel run with status '{run.status}'.")
        self._cancelling = asyncio.get_running_loop().create_task(run.cancel())
        while run.status in ("queued", "in_progress", "requires_action"):
            await asyncio.sleep(0)
        return run.object

    async def _submit(self, request: web.Request) -> Any:
        run, body = self._run_of(request), await request.json()
        if set(body) - {"tool_outputs", "stream"}:
            raise Refused(400, f"Unrecognized request argument supplied: {sorted(body)}")
        if run.status != "requires_action":
            raise Refused(400, f'Runs in status "{run.status}" do not accept tool outputs.')
        wanted = [call["id"] for call in run.object["required_action"]["submit_tool_outputs"]["tool_calls"]]
        got = [one["tool_call_id"] for one in body["tool_outputs"]]
        if sorted(wanted) != sorted(got):
            raise Refused(400, f"Expected tool outputs for call_ids {wanted}, got {got}")
        run.object["required_action"] = None
        return await self._streamed(request, run, body, ("queued",))

    async def _streamed(self, request: web.Request, run: RunTask, body: dict[str, Any], before: Any) -> Any:
        if not body.get("stream") or not self.streams:
            run.object["status"] = "queued"
            run.work()
            return {**run.object, "status": "queued"}
        run.listener = listener = asyncio.Queue()
        run.object["status"] = "queued"
        for status in before:
            run.emit(f"thread.run.{status}", run.object)
        run.work()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while (frame := await listener.get()) is not None:
            if isinstance(frame, Cut):
                assert request.transport is not None
                request.transport.close()
                return response
            if isinstance(frame, ErrorEvent):
                error = {"code": "server_error", "message": frame.message, "type": "server_error", "param": None}
                await self._write(response, "error", error)
                return response
            await self._write(response, *frame)
        await response.write(b"event: done\ndata: [DONE]\n\n")
        return response

    async def _write(self, response: web.StreamResponse, event: str, data: Any) -> None:
        sent = f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()
        size = self.piece or len(sent)
        for start in range(0, len(sent), size):
            await response.write(sent[start : start + size])

    def _thread_of(self, request: web.Request) -> Thread:
        name = request.match_info["thread"]
        if name not in self.threads:
            raise Refused(404, f"No thread found with id '{name}'.")
        return self.threads[name]

    def _run_of(self, request: web.Request) -> RunTask:
        name = request.match_info["run"]
        for run in self._thread_of(request).runs:
            if run.id == name:
                return run
        raise Refused(404, f"No run found with id '{name}'.")


def _refusal(refused: Refused) -> web.Response:
    error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": None}
    headers = {name.replace("_", "-"): value for name, value in refused.headers.items()}
    return web.json_response({"error": error}, status=refused.status, headers=headers)


async def _known(request: web.Request, params: Any, *more: str, without: str = "") -> dict[str, Any]:
    """Return the body; its names must be those of the SDK's type."""
    names = {name for kind in params.__mro__ for name in getattr(kind, "__annotations__", {})} | set(more)
    body: dict[str, Any] = await request.json()
    for name in body:
        if name not in names - {without}:
            raise Refused(400, f"Unrecognized request argument supplied: {name}")
    return body


def _resources(body: dict[str, Any]) -> dict[str, Any]:
    resources = body.get("tool_resources") or {}
    if len((resources.get("file_search") or {}).get("vector_store_ids") or ()) > 1:
        raise Refused(400, "Invalid 'tool_resources.file_search.vector_store_ids': array too long.")
    return dict(resources)


def _page(request: web.Request, objects: list[dict[str, Any]]) -> Any:
    ordered = objects if request.query.get("order") == "asc" else objects[::-1]
    if (after := request.query.get("after")) is not None:
        places = [number for number, one in enumerate(ordered) if one["id"] == after]
        ordered = ordered[places[0] + 1 :] if places else ordered
    limit = int(request.query.get("limit", 20))
    if not 1 <= limit <= 100:
        raise Refused(400, "Invalid 'limit': integer out of range.")
    page = ordered[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, "has_more": len(ordered) > limit, **ends}


def _shown(content: list[dict[str, Any]]) -> str:
    return "".join(part["text"]["value"] if part["type"] == "text" else f"<{part['type']}>" for part in content)
