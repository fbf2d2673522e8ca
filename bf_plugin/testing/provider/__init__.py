"""A model provider for tests and demos: OpenAI's Responses and Conversations APIs as a real HTTP server."""

from __future__ import annotations

from bf_plugin.testing.provider.brain import Brain, BrainRequest
from bf_plugin.testing.provider.faults import SWITCHES, Fault
from bf_plugin.testing.provider.gate import Gate
from bf_plugin.testing.provider.recording import RecordedRequest
from bf_plugin.testing.provider.script import (
    Answer,
    Reply,
    call,
    error,
    event,
    failed,
    incomplete,
    pause,
    reasoning,
    refusal,
    reply,
    text,
    words,
)
from bf_plugin.testing.provider.simulator import ProviderSimulator
from bf_plugin.testing.provider.state import ConversationRecord, ResponseRecord

__all__ = [
    "SWITCHES",
    "Answer",
    "Brain",
    "BrainRequest",
    "ConversationRecord",
    "Fault",
    "Gate",
    "ProviderSimulator",
    "RecordedRequest",
    "Reply",
    "ResponseRecord",
    "call",
    "error",
    "event",
    "failed",
    "incomplete",
    "pause",
    "reasoning",
    "refusal",
    "reply",
    "text",
    "words",
]
