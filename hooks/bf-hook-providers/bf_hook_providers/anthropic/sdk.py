"""The SDK `anthropic`: the only module that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from bf_hook_providers.anthropic.body import body_of, part_problem
from bf_hook_providers.anthropic.reader import AnthropicReader
from bf_hook_providers.problems import failure, fields_of, refusal
from bf_hook_providers.provider import Body, Chunks, Provider, parted
from bf_hook_providers.review import arguments, details, ignored
from bf_hook_providers.sections import AnthropicSection
from bf_hook_providers.turns import Conversation
from bf_plugin import ProviderError, RunDraft
from bf_plugin.engines.port import StepRequest
from bf_plugin.errors import invalid
from bf_plugin.items import FilePart, ImagePart

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP status of each type of error (Anthropic documentation, "Errors"): an error in a stream comes without one."""

_TYPED = ("model", "max_tokens", "messages")


class AnthropicProvider(Provider):
    """Anthropic, or a gateway that speaks its Messages API."""

    name = "anthropic"
    module = "anthropic"
    extra = "anthropic"

    def __init__(self, section: AnthropicSection) -> None:
        self.section: AnthropicSection = section

    def load(self) -> None:
        """Import the SDK."""
        import anthropic
        from anthropic.resources import messages

        _ = anthropic.DefaultAioHttpClient, messages.AsyncMessages

    async def connect(self) -> Any:
        """Return a client."""
        return await asyncio.to_thread(self._client)

    def _client(self) -> Any:
        """Return a client without time-outs: the engine has its own.

        What its environment would add is set here: URL and key are the operator's matter.
        """
        import anthropic

        self.load()
        return anthropic.AsyncAnthropic(
            api_key="of each request",
            base_url=self.section.base_url,
            timeout=None,
            max_retries=0,
            http_client=anthropic.DefaultAioHttpClient(follow_redirects=False),
        )

    async def close(self, client: Any) -> None:
        """Close a client."""
        await client.close()

    def body(self, request: StepRequest, talk: Conversation) -> Body:
        """Return the request for a step."""
        return body_of(request, talk, self.section)

    async def ask(self, client: Any, body: Body, headers: Mapping[str, str], key: str) -> Chunks:
        """Ask, once. What the SDK knows no parameter for goes beside them: it drops some that older models take."""
        typed, rest = parted(body, _TYPED)
        messages = client.with_options(api_key=key).messages
        chunks: Chunks = await messages.create(**typed, stream=True, extra_body=rest, extra_headers=headers)
        return chunks

    def reader(self) -> AnthropicReader:
        """Return a reader for one answer."""
        return AnthropicReader()

    def problem_of(self, error: Exception, key: str) -> ProviderError | None:
        """Return what an exception of the SDK means. An error in a stream has the status of the stream, 200."""
        import anthropic

        if not isinstance(error, anthropic.APIStatusError):
            return None
        fields = fields_of(error.body)
        kind, message = fields.get("type"), fields.get("message")
        if error.status_code < 300:
            return failure(message, code=kind, status=_STATUS.get(str(kind)), key=key)
        return refusal(error.status_code, message, code=kind, headers=error.response.headers, key=key)

    def part_problem(self, part: ImagePart | FilePart) -> str | None:
        """Return why an image or a file cannot be shown to the model."""
        return part_problem(part)

    def review(self, run: RunDraft) -> Iterator[str]:
        """Yield warnings, refuse what the API has no form for."""
        if (run.options.get("temperature") or 0) > 1:
            raise invalid("payload.temperature", f"must be at most 1 for provider {self.name}")
        if (run.options.get("response_format") or {}).get("type") == "json_object":
            raise invalid("payload.response_format", f"must be text or json_schema for provider {self.name}")
        yield from ignored((*arguments(run, "safety_identifier"), *details(run)), self.name)
