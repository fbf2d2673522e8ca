"""The SDK `google-genai`: the only module that knows it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from bf_hook_providers.gemini.body import body_of, part_problem
from bf_hook_providers.gemini.reader import GeminiReader
from bf_hook_providers.problems import fields_of, refusal
from bf_hook_providers.provider import Body, Chunks, Provider
from bf_hook_providers.review import arguments, details, ignored
from bf_hook_providers.sections import GeminiSection
from bf_hook_providers.turns import Conversation
from bf_plugin import ProviderError, RunDraft
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, ImagePart


@dataclass(frozen=True, slots=True)
class Connection:
    """The SDK's client, and the connections under it, which are ours to close."""

    sdk: Any
    session: aiohttp.ClientSession


_LONGEST_LINE = 2**22
"""Bytes, as the SDK has it for sessions of its own: the arguments of a call come in one line."""

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


class GeminiProvider(Provider):
    """The Gemini API, or a gateway that speaks it."""

    name = "gemini"
    module = "google.genai"
    extra = "gemini"

    def __init__(self, section: GeminiSection) -> None:
        self.section: GeminiSection = section

    def load(self) -> None:
        """Import the SDK."""
        from google import genai

        _ = genai.Client, genai.types.GenerateContentConfig

    async def connect(self) -> Connection:
        """Return a client and the connections it uses."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), trust_env=True, read_bufsize=_LONGEST_LINE
        )
        return Connection(await asyncio.to_thread(self._client, session), session)

    def _client(self, session: aiohttp.ClientSession) -> Any:
        """Return a client. All that it would take from its environment is set here.

        One attempt, and no redirects: a repeated request repeats the step, and a redirected one carries the key.
        """
        from google import genai

        options: Any = {
            "base_url": self.section.base_url,
            "api_version": self.section.api_version,
            "retry_options": {"attempts": 1},
            "async_client_args": {"allow_redirects": False},
            "aiohttp_client": session,
        }
        return genai.Client(vertexai=False, api_key="of-each-request", http_options=options)

    async def close(self, client: Connection) -> None:
        """Close a client."""
        await client.sdk.aio.aclose()
        client.sdk.close()
        await client.session.close()

    def body(self, request: StepRequest, talk: Conversation) -> Body:
        """Return the request for a step."""
        return body_of(request, talk, self.section)

    async def ask(self, client: Any, body: Body, headers: Mapping[str, str], key: str) -> Chunks:
        """Return the chunks of an answer; the first that is read asks."""
        config = {**body["config"], "http_options": {"headers": {**headers, "x-goog-api-key": key}}}
        stream = client.sdk.aio.models.generate_content_stream
        chunks: Chunks = await stream(model=body["model"], contents=body["contents"], config=config)
        return chunks

    def reader(self) -> GeminiReader:
        """Return a reader for one answer."""
        return GeminiReader()

    def problem_of(self, error: Exception, key: str) -> ProviderError | None:
        """Return what an exception of the SDK means. A bad key is answered with 400."""
        from google.genai import errors

        if not isinstance(error, errors.APIError):
            return None
        fields = fields_of(error.details)
        details = fields.get("details")
        details = [detail for detail in details if isinstance(detail, Mapping)] if isinstance(details, list) else []
        status = error.code if isinstance(error.code, int) else 500
        if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
            status = 401
        message, code = error.message or fields.get("message"), error.status or fields.get("status")
        return refusal(status, message, code=code, headers=_headers(error, details), key=key)

    def part_problem(self, part: ImagePart | FilePart) -> str | None:
        """Return why an image or a file cannot be shown to the model."""
        return part_problem(part)

    def review(self, run: RunDraft) -> Iterator[str]:
        """Yield warnings."""
        fields = [*arguments(run), *details(run)]
        if run.options.get("parallel_tool_calls") is False:
            fields.append("payload.parallel_tool_calls")
        yield from ignored(fields, self.name)


def _headers(error: Any, details: list[Mapping[str, Any]]) -> dict[str, str]:
    """Return when to come again: in a header, or in a detail of type RetryInfo (google.rpc)."""
    delay = next((str(detail["retryDelay"]) for detail in details if "retryDelay" in detail), "")
    if (found := _SECONDS.fullmatch(delay)) is not None:
        return {"retry-after": found.group(1)}
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return {"retry-after": headers["retry-after"]} if "retry-after" in headers else {}
