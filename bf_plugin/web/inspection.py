"""The resources for a page that comes back: a run, its events, the messages of its thread; and a thread's deletion."""

from __future__ import annotations

from collections.abc import Iterator

import falcon
import msgspec

from bf_plugin.gateway.apps import Apps
from bf_plugin.usecases.delete import Deletion
from bf_plugin.usecases.inspection import Event, Following, Inspection
from bf_plugin.web.cors import Resource
from bf_plugin.web.reading import authenticate, number, thread_id_of
from bf_plugin.web.schemas import LARGEST_SEQ, MOST_RUNS

_JSON = "application/json"
_EVENT_STREAM = "text/event-stream"
_HELLO = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"


class RunResource(Resource):
    """`GET .../runs/{runId}`; the thread id comes beside it."""

    cross_origin = ("GET",)

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Report status, text so far, usage, error."""
        report = self._inspection.run(run_id, thread_id_of(req))
        resp.media = {
            "success": True,
            "threadId": report.thread_id,
            "runId": report.run_id,
            "status": report.status,
            "text": report.text,
            "seq": report.seq,
            "usage": report.usage.as_json(),
            "finish_reason": report.finish_reason,
            "error": report.error,
        }


class EventsResource(Resource):
    """`GET .../runs/{runId}/events`: what a page missed, or all that is to come."""

    cross_origin = ("GET",)

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Answer with the events after `after` as JSON, or go on as a stream; 204 tells a stream's reader to stop."""
        thread_id, after = thread_id_of(req), _after(req)
        resp.append_header("Vary", "Accept")
        if req.client_prefers((_JSON, _EVENT_STREAM)) != _EVENT_STREAM:
            events = self._inspection.events(run_id, thread_id, after)
            resp.media = {"success": True, "threadId": thread_id, "runId": run_id, "events": events}
            return
        # waitress tells when the client has gone; elsewhere the write of the next heartbeat fails.
        gone = req.env.get("waitress.client_disconnected", lambda: False)
        following = self._inspection.follow(run_id, thread_id, after, gone)
        if following is None:
            resp.status = falcon.HTTP_204
        else:
            resp.content_type = _EVENT_STREAM
            resp.set_header("X-Accel-Buffering", "no")
            resp.stream = _EventStream(following)


class MessagesResource(Resource):
    """`GET .../threads/{threadId}/messages`; needs an app key."""

    def __init__(self, inspection: Inspection, apps: Apps) -> None:
        self._inspection = inspection
        self._apps = apps

    def on_get(self, req: falcon.Request, resp: falcon.Response, thread_id: str) -> None:
        """List what was said in the newest `limit` runs, oldest first."""
        app = authenticate(self._apps, req)
        limit = number(req.get_param("limit"), "limit", default=50, least=1, most=MOST_RUNS)
        messages, more = self._inspection.messages(thread_id, app.id, limit)
        resp.media = {"success": True, "threadId": thread_id, "messages": messages, "hasMore": more}


class ThreadResource(Resource):
    """`DELETE .../threads/{threadId}`; needs an app key."""

    def __init__(self, deletion: Deletion, apps: Apps) -> None:
        self._deletion = deletion
        self._apps = apps

    def on_delete(self, req: falcon.Request, resp: falcon.Response, thread_id: str) -> None:
        """Delete a thread, here and, with the key in `X-Provider-Key` or the operator's, at the provider."""
        app = authenticate(self._apps, req)
        deleted = self._deletion.delete(thread_id, app, req.get_header("X-Provider-Key"))
        why = {} if deleted.message is None else {"message": deleted.message}
        resp.media = {"success": True, "threadId": thread_id, "status": "deleted", "provider": deleted.provider, **why}


class _EventStream:
    """Events as server-sent events (HTML standard, 9.2). The server closes it, whatever happens to the client."""

    def __init__(self, following: Following) -> None:
        self._following = following

    def __iter__(self) -> Iterator[bytes]:
        yield _HELLO
        for batch in self._following:
            yield b"".join(map(_frame, batch)) or _HEARTBEAT

    def close(self) -> None:
        """Give back the place among the waiters."""
        self._following.close()


def _after(req: falcon.Request) -> int:
    """Return the seq the client has seen: its browser's word (a reconnecting EventSource) before the URL's."""
    if last := req.get_header("Last-Event-ID"):
        return number(last, "Last-Event-ID", default=0, most=LARGEST_SEQ)
    return number(req.get_param("after"), "after", default=0, most=LARGEST_SEQ)


def _frame(event: Event) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (event["seq"], msgspec.json.encode(event))
