"""Every name that leaves this plugin: of OpenTelemetry's semantic conventions for generative AI, and a few of our own.

Those that begin with `gen_ai.` are of the conventions' own repository, in which nothing is released yet
(https://github.com/open-telemetry/semantic-conventions-genai, schema `CONVENTIONS`, of which the names here are those
that the Python SDK has and OpenTelemetry's own instrumentations emit); `error.type` and `server.*` are of the general
ones. What they have no name for begins with `bf_plugin.`. The conventions are in development: when they rename
something, a minor release of this distribution follows, which changes this file and nothing else.
"""

from __future__ import annotations

from typing import Final

CONVENTIONS: Final = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""The version of the conventions, as the schema URL that goes out with all spans and metrics."""

# operations, which are also the first word of a span's name
INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"

# attributes
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
OUTPUT_TYPE: Final = "gen_ai.output.type"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION: Final = "gen_ai.conversation.id"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # no password
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
RUN_ID: Final = "bf_plugin.run.id"
REQUEST_ID: Final = "bf_plugin.request.id"
APP: Final = "bf_plugin.app"
STATUS: Final = "bf_plugin.run.status"
FINISH_REASON: Final = "bf_plugin.run.finish_reason"
STOP_REASON: Final = "bf_plugin.stop.reason"
STEP: Final = "bf_plugin.step.number"
ESTIMATED: Final = "bf_plugin.usage.estimated"

# attributes that hold what people, models and tools wrote: with `content = true` only
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

# metrics
OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105  # no password
AGENT_DURATION: Final = "gen_ai.invoke_agent.duration"
AGENT_CALLS: Final = "gen_ai.invoke_agent.inference_calls"
TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
RUNS: Final = "bf_plugin.runs"
STOPS: Final = "bf_plugin.stops"
RUNS_ACTIVE: Final = "bf_plugin.runs.active"
FIRST_TEXT: Final = "bf_plugin.run.time_to_first_text"

# bounds of histograms, as the conventions advise
SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
LONG_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
CALLS: Final = (1, 2, 4, 8, 16, 32, 64, 128)

# values of `error.type`, besides the codes of `error` events and the names of exceptions
TIMEOUT: Final = "timeout"
CANCELLED: Final = "cancelled"
TOOL_ERROR: Final = "tool_error"
STOPPED_BY_HOOK: Final = "stopped_by_hook"

OTHER: Final = "_OTHER"
"""Stands for a value that would make a series of its own of whatever a model or a caller writes."""
