"""HTTP/1.1 for the two hot paths, reading a provider's stream and posting messages; used by engine and messenger.

Always the same few kinds of request, thousands a second, in one event loop: a general client spends on each several
times what all the rest of its way costs. Bytes are parsed by httptools (llhttp, Node's own parser); asyncio does TLS.
"""

from __future__ import annotations
