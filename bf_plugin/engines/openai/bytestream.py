"""The bytes of a streamed answer, as directly as they can be had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import AsyncAPIResponse


def chunks_of(response: AsyncAPIResponse[Any]) -> AsyncIterator[bytes]:
    """Yield what each network read brings.

    The SDK and its HTTP client put five generators between its transport and us, which cost as much for each read as
    all the decoding. Where the transport is aiohttp's, its own stream is read instead; the request, its errors and its
    end stay the SDK's. Nothing of this is public in the SDK: where it is not as expected, or the answer is compressed,
    it is the SDK's iterator.
    """
    reader = _reader(response)
    if reader is None or response.headers.get("content-encoding", "identity") != "identity":
        return response.iter_bytes()
    chunks: AsyncIterator[bytes] = reader.iter_any()
    return chunks


def _reader(response: AsyncAPIResponse[Any]) -> Any | None:
    """Return the aiohttp stream below the SDK's answer, the HTTP client's, its bound stream and the transport's."""
    below: Any = response
    for name in ("http_response", "stream", "_stream", "_aiohttp_response", "content"):
        below = getattr(below, name, None)
    return below if hasattr(below, "iter_any") else None
