"""The calls that are made of the server, and what it answers, as JSON.

On aiohttp and not on the SDK `openai`: that still has `beta.threads` (3.57, November 2026), but each call of it warns
that it is deprecated, and OpenAI itself has switched the API off. Names and fields are those of the SDK's types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from bf_hook_assistants.problems import may_pass, refusal, unanswered
from bf_hook_assistants.reply import Reply
from bf_hook_assistants.section import Section
from bf_plugin import ProviderError

Json = dict[str, Any]

_CALL_TIMEOUT = 30.0
_TRIES = 6
_LONGEST_PAUSE = 16.0
_PAGE = 100
_PAGES = 50
"""How far a list is read at most; some servers say `has_more` for ever."""


class Session:
    """The connections to the server, for all runs and keys of a process. Made when first used, on the event loop."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    @property
    def http(self) -> aiohttp.ClientSession:
        """The connections. No cookies: they would go from one caller's requests to another's."""
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=0)
            jar = aiohttp.DummyCookieJar()
            self._http = aiohttp.ClientSession(connector=connector, cookie_jar=jar, trust_env=True)
        return self._http

    async def aclose(self) -> None:
        """Close them."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()


class Api:
    """The server under one key. Every method raises ProviderError when it fails.

    `whose` tells accounts apart: the key the run came with, "" for the operator's, which may be renewed.
    """

    def __init__(self, session: Session, section: Section, *, key: str, whose: str, request_id: str | None) -> None:
        self.server = section.base_url or ""
        self.key = key
        self.whose = whose
        self._session = session
        self._section = section
        self._query = urlencode(section.query)
        self._headers = {"OpenAI-Beta": "assistants=v2", **_identified(request_id), **_key_header(section, key)}

    async def create_assistant(self, model: str) -> str:
        """Make an assistant that has a model and nothing else: all else is said with each run. Returns its id."""
        metadata = {"made_by": "bf_plugin"}
        return _id(await self._call("POST", "/assistants", {"model": model, "name": "bf_plugin", "metadata": metadata}))

    async def create_thread(self, body: Mapping[str, Any]) -> str:
        """Make a thread and return its id."""
        return _id(await self._call("POST", "/threads", body))

    async def change_thread(self, thread: str, body: Mapping[str, Any]) -> None:
        """Change a thread."""
        await self._call("POST", f"/threads/{_part(thread)}", body)

    async def delete_thread(self, thread: str) -> None:
        """Delete a thread."""
        await self._repeated("DELETE", f"/threads/{_part(thread)}")

    async def add_message(self, thread: str, message: Mapping[str, Any]) -> str:
        """Add a message to a thread and return its id."""
        return _id(await self._call("POST", f"/threads/{_part(thread)}/messages", message))

    async def delete_message(self, thread: str, message: str) -> None:
        """Delete a message."""
        await self._repeated("DELETE", f"/threads/{_part(thread)}/messages/{_part(message)}")

    async def messages(self, thread: str, *, after: str | None, run: str | None = None) -> list[Json]:
        """Return the messages behind `after`, oldest first; with `run` those that it generated."""
        query = {"order": "asc", "limit": str(_PAGE), **({"run_id": run} if run else {})}
        found: list[Json] = []
        for _ in range(_PAGES):
            page = await self._list(
                f"/threads/{_part(thread)}/messages", {**query, **({"after": after} if after else {})}
            )
            found += page
            if len(page) < _PAGE:
                break
            after = str(page[-1].get("id"))
        return [one for one in found if run is None or (one.get("run_id") == run and one.get("role") == "assistant")]

    async def runs(self, thread: str) -> list[Json]:
        """Return the newest runs of a thread."""
        return await self._list(f"/threads/{_part(thread)}/runs", {"order": "desc", "limit": "20"})

    async def run(self, thread: str, run: str) -> Json:
        """Return a run as it is now."""
        return await self._repeated("GET", f"/threads/{_part(thread)}/runs/{_part(run)}")

    async def cancel(self, thread: str, run: str) -> None:
        """Ask for the cancelling of a run; one that is over, or gone, is no problem."""
        try:
            await self._repeated("POST", f"/threads/{_part(thread)}/runs/{_part(run)}/cancel")
        except ProviderError as problem:
            if problem.status not in (400, 404, 409):
                raise

    async def create_run(self, thread: str, body: Mapping[str, Any]) -> Reply:
        """Start a run, once, and listen to it."""
        return await self._stream(f"/threads/{_part(thread)}/runs", body)

    async def submit(self, thread: str, run: str, outputs: Sequence[Mapping[str, str]]) -> Reply:
        """Hand in what the calls of a run have answered, once, and listen to it."""
        path = f"/threads/{_part(thread)}/runs/{_part(run)}/submit_tool_outputs"
        return await self._stream(path, {"tool_outputs": list(outputs)})

    async def _list(self, path: str, query: Mapping[str, str]) -> list[Json]:
        data = (await self._repeated("GET", path, query)).get("data")
        return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []

    async def _repeated(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Ask what may be asked again, until there is an answer."""
        for number in range(_TRIES):
            try:
                return await self._call(method, path, query=query)
            except ProviderError as problem:
                if number + 1 == _TRIES or not may_pass(problem):
                    raise
                pause = max(self._section.poll_seconds * 2**number, problem.retry_after or 0)
            await asyncio.sleep(min(pause, _LONGEST_PAUSE))
        raise AssertionError("the last try returns or raises")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Json:
        response = await self._ask(method, path, body, query, aiohttp.ClientTimeout(total=_CALL_TIMEOUT))
        try:
            answer = json.loads(await response.read())
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise unanswered(error) from None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ProviderError("the provider answered with something else than an object", code="provider_error")
        return answer

    async def _stream(self, path: str, body: Mapping[str, Any]) -> Reply:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CALL_TIMEOUT, sock_read=self._section.silence)
        return Reply(await self._ask("POST", path, {**body, "stream": True}, None, timeout), self.key)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        extra = "&".join(filter(None, (self._query, urlencode(query or {}))))
        url = URL(f"{self.server}{path}{'?' if extra else ''}{extra}", encoded=True)
        try:
            response = await self._session.http.request(
                method, url, json=body, headers=self._headers, timeout=timeout, allow_redirects=False
            )
            if response.status < 300:
                return response
            raise refusal(response.status, await _error_of(response), response.headers, self.key)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise unanswered(error) from None
        except ValueError:  # its text may hold the key
            raise ProviderError("no header can hold the API key", status=401) from None


def _id(answer: Json) -> str:
    if not isinstance(answer.get("id"), str):
        raise ProviderError("the provider made something without an id", code="provider_error")
    return str(answer["id"])


async def _error_of(response: aiohttp.ClientResponse) -> Any:
    text = await response.text(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return None


def _part(name: str) -> str:
    return quote(name, safe="")


def _identified(request_id: str | None) -> dict[str, str]:
    return {"X-Client-Request-Id": request_id} if request_id else {}


def _key_header(section: Section, key: str) -> dict[str, str]:
    if not key:
        return {}
    return {section.key_header: key} if section.key_header else {"Authorization": f"Bearer {key}"}
