"""The SDK `openai`, which `bf_plugin` brings along: the only module that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from bf_hook_providers.chat.body import ARGUMENTS, body_of, part_problem
from bf_hook_providers.chat.reader import ChatReader
from bf_hook_providers.problems import failure, fields_of, refusal
from bf_hook_providers.provider import Body, Chunks, Provider, parted
from bf_hook_providers.review import arguments, ignored
from bf_hook_providers.sections import ChatSection
from bf_hook_providers.turns import Conversation
from bf_plugin import ProviderError, RunDraft
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, ImagePart

_TYPED = ("model", "messages", "stream")


class ChatProvider(Provider):
    """The server that the operator has set up."""

    name = "chat"
    module = "openai"

    def __init__(self, section: ChatSection) -> None:
        self.section: ChatSection = section

    @property
    def problem(self) -> str | None:
        """There is no server that everybody means."""
        return None if self.section.base_url else "[plugins.chat] of the apps file has no base_url"

    @property
    def needs_key(self) -> bool:
        """Whether the server asks for a key."""
        return self.section.needs_key

    def load(self) -> None:
        """Import the SDK."""
        import openai
        from openai.resources import chat

        _ = openai.DefaultAioHttpClient, chat.AsyncChat

    async def connect(self) -> Any:
        """Return a client."""
        return await asyncio.to_thread(self._client)

    def _client(self) -> Any:
        """Return a client without time-outs: the engine has its own.

        What its environment would add is overwritten: that is for OpenAI, and the operator's.
        """
        import openai

        self.load()
        client = openai.AsyncOpenAI(
            api_key="of each request",
            base_url=self.section.base_url,
            timeout=None,
            max_retries=0,
            default_query=dict(self.section.query),
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),
        )
        client.organization = client.project = None
        return client

    async def close(self, client: Any) -> None:
        """Close a client."""
        await client.close()

    def body(self, request: StepRequest, talk: Conversation) -> Body:
        """Return the request for a step."""
        return body_of(request, talk, self.section)

    async def ask(self, client: Any, body: Body, headers: Mapping[str, str], key: str) -> Chunks:
        """Ask, once."""
        typed, rest = parted(body, _TYPED)
        sent = {**headers, **self._key_header(key)}
        chunks: Chunks = await client.chat.completions.create(**typed, extra_body=rest, extra_headers=sent)
        return chunks

    def reader(self) -> ChatReader:
        """Return a reader for one answer."""
        return ChatReader()

    def problem_of(self, error: Exception, key: str) -> ProviderError | None:
        """Return what an exception of the SDK means. An error in a stream has no status, or says it in its code."""
        import openai

        if isinstance(error, openai.APIStatusError):
            fields = fields_of(error.body)
            code = fields.get("code") or fields.get("type")
            message = fields.get("message") or fields.get("detail")
            return refusal(error.status_code, message, code=code, headers=error.response.headers, key=key)
        if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
            fields = fields_of(error.body)
            code = fields.get("code") or fields.get("type")
            return failure(fields.get("message") or error.message, code=code, status=_status(code), key=key)
        return None

    def part_problem(self, part: ImagePart | FilePart) -> str | None:
        """Return why an image or a file cannot be shown to the model."""
        return part_problem(part)

    def review(self, run: RunDraft) -> Iterator[str]:
        """Yield warnings."""
        yield from ignored(arguments(run, *ARGUMENTS, "text"), self.name)
        strict = any(tool["type"] == "function" and tool.get("strict") for tool in run.tools)
        asked = {**{name: run.options.get(name) for name in self.section.without}, "strict": strict or None}
        for name in sorted(self.section.without):
            if asked.get(name) is not None:
                yield f"payload.{'tools: ' if name == 'strict' else ''}{name} is ignored: the server does not take it"

    def _key_header(self, key: str) -> dict[str, Any]:
        import openai

        if not key or self.section.key_header:
            without: dict[str, Any] = {"Authorization": openai.Omit()}
            return {**without, self.section.key_header: key} if key and self.section.key_header else without
        return {"Authorization": f"Bearer {key}"}


def _status(code: object) -> int | None:
    """Return the status that servers write as the code of an error in a stream (LiteLLM, OpenRouter, vLLM)."""
    try:
        status = int(str(code))
    except ValueError:
        return None
    return status if 400 <= status < 600 else None
