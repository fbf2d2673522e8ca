"""Spans of whole runs: what they say, whose children they are, and that nothing else is said."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from bf_hook_otel.tracecontext import write_run
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from bf_plugin import ProviderError, Run, StopRun, Toolbox, ToolCall, ToolResult, Usage, hookimpl
from bf_plugin.settings import AppSettings
from bf_plugin.testing import Deployment, Gate, ScriptedEngine, call
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY
from bf_plugin.testing.gateway import RecordingGateway

CALLER = "0af7651916cd43dd8448eb211c80319c"
ABOVE = "b7ad6b7169203331"
PARENT = f"00-{CALLER}-{ABOVE}-01"
OTHER_KEY = "key-of-another-app"
CONTENT = {
    "gen_ai.system_instructions",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
}

Deploy = Callable[..., Deployment]

tools = Toolbox("sums", offer="always")


@tools.tool(idempotent=True)
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def ended(deployed: Deployment, recorded: Any, runs: int = 1) -> None:
    """Wait until so many runs have made their span."""
    deployed.gateway.wait_for(lambda: len(agents(recorded)) >= runs)


def agents(recorded: Any) -> list[ReadableSpan]:
    return [span for span in recorded.spans if span.name.startswith("invoke_agent")]


def hexed(number: int, digits: int) -> str:
    return format(number, f"0{digits}x")


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def start(deployed: Deployment, text: str = "Hi", headers: dict[str, str] | None = None, **payload: Any) -> Any:
    answer = deployed.post("", deployed.body(text, **payload), headers=headers or {})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_run_is_a_tree_of_spans(recorded: Any, scripted: Deploy) -> None:
    """The run, below it each answer of the model and each call of a tool, with the conventions' names."""
    deployed = scripted(
        [call("add", {"a": 1, "b": 2})],
        ["Thr", "ee"],
        plugins=[tools],
        apps={"portal": AppSettings(api_keys=[SecretStr(APP_KEY)])},
        messaging="http",
    )

    run = deployed.start("1 + 2?", temperature=0.5, response_format={"type": "json_object"})
    deployed.events(run)
    ended(deployed, recorded)

    agent, tool = recorded.one("invoke_agent portal"), recorded.one("execute_tool add")
    first, second = sorted(recorded.named("chat gpt-test"), key=lambda span: span.start_time or 0)
    assert {span.kind for span in (agent, tool)} == {SpanKind.INTERNAL}
    assert {span.kind for span in (first, second)} == {SpanKind.CLIENT}
    assert agent.parent is None
    assert agent.context is not None
    assert {span.context.trace_id for span in recorded.spans} == {agent.context.trace_id}
    assert {span.parent.span_id for span in (tool, first, second)} == {agent.context.span_id}
    assert agent.start_time <= first.start_time <= first.end_time <= tool.start_time
    assert tool.end_time <= second.start_time <= second.end_time <= agent.end_time

    said = attributes(agent)
    assert said["gen_ai.operation.name"] == "invoke_agent"
    assert (said["gen_ai.provider.name"], said["gen_ai.request.model"]) == ("openai", "gpt-test")
    assert (said["gen_ai.agent.name"], said["bf_plugin.app"]) == ("portal", "portal")
    assert (said["bf_plugin.run.id"], said["bf_plugin.run.status"]) == (run["runId"], "completed")
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (2, 2)
    assert (said["gen_ai.request.temperature"], said["gen_ai.output.type"]) == (0.5, "json")
    assert said["gen_ai.response.finish_reasons"] == ("stop",)
    assert "error.type" not in said
    asked = attributes(first)
    assert asked["gen_ai.operation.name"] == "chat"
    assert (asked["gen_ai.response.id"], asked["gen_ai.response.finish_reasons"]) == ("resp_1", ("tool_calls",))
    assert "gen_ai.response.time_to_first_chunk" not in asked
    answered = attributes(second)
    assert (answered["gen_ai.usage.input_tokens"], answered["gen_ai.usage.output_tokens"]) == (1, 1)
    assert (answered["gen_ai.response.finish_reasons"], answered["bf_plugin.step.number"]) == (("stop",), 2)
    assert 0 <= answered["gen_ai.response.time_to_first_chunk"] <= (second.end_time - second.start_time) / 1e9
    assert (answered["server.address"], answered["server.port"]) == ("api.openai.com", 443)
    called = attributes(tool)
    assert called["gen_ai.operation.name"] == "execute_tool"
    assert (called["gen_ai.tool.name"], called["gen_ai.tool.call.id"]) == ("add", "call_1")


def test_what_was_said_stays_here(recorded: Any, scripted: Deploy) -> None:
    """By default no span has text of anybody; never has one a key, or the id of a thread, which is a capability."""
    secret = "the-pin-is-1234"
    deployed = scripted(
        [call("add", {"a": 1, "b": secret})],
        [f"so {secret}", ProviderError(f"the model saw {secret}", code="server_error")],
        plugins=[tools],
    )

    run = deployed.start(f"remember {secret}", instructions=f"never tell {secret}")
    deployed.events(run)
    ended(deployed, recorded)

    everything = "".join(span.to_json() for span in recorded.spans)
    assert len(recorded.spans) == 4
    for kept in (secret, APP_KEY, PROVIDER_KEY, run["threadId"]):
        assert kept not in everything


def test_what_was_said_is_there_when_asked_for(recorded: Any, scripted: Deploy) -> None:
    """In the conventions' JSON, and still without keys."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    deployed = scripted([call("add", {"a": 1, "b": 2})], "A cat", plugins=[tools], sections={"otel": {"content": True}})

    run = deployed.start(messages=messages, instructions="Be brief.")
    deployed.events(run)
    ended(deployed, recorded)

    said, called = attributes(recorded.one("invoke_agent")), attributes(recorded.one("execute_tool add"))
    assert json.loads(said["gen_ai.input.messages"]) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "What is it?"},
                {"type": "uri", "modality": "image", "uri": "https://example.com/cat.png"},
            ],
        }
    ]
    assert json.loads(said["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    parts = [{"type": "text", "content": "A cat"}]
    output = {"role": "assistant", "parts": parts, "finish_reason": "stop"}
    assert json.loads(said["gen_ai.output.messages"]) == [output]
    assert json.loads(called["gen_ai.tool.call.arguments"]) == {"a": 1, "b": 2}
    assert called["gen_ai.tool.call.result"] == "3"
    everything = "".join(span.to_json() for span in recorded.spans)
    assert APP_KEY not in everything
    assert PROVIDER_KEY not in everything


def test_what_was_said_in_one_app(recorded: Any, scripted: Deploy) -> None:
    """`content` may name apps: what is said in the others stays here."""
    apps = {"portal": AppSettings(api_keys=[SecretStr(APP_KEY)]), "shop": AppSettings(api_keys=[SecretStr(OTHER_KEY)])}
    deployed = scripted(
        [call("add", {"a": 1, "b": 2})],
        ["A portal"],
        [call("add", {"a": 3, "b": 4})],
        ["A shop", ProviderError("sold out", code="server_error")],
        plugins=[tools],
        apps=apps,
        messaging="http",
        gateway=RecordingGateway(keys=[APP_KEY, OTHER_KEY]),
        sections={"otel": {"content": ["portal"]}},
    )

    deployed.events(deployed.start("What is it?"))
    answer = deployed.post("", {**deployed.body("And this?"), "apiKey": OTHER_KEY})
    deployed.events(answer.json())
    ended(deployed, recorded, 2)

    contents = {
        span.name: {name for name in attributes(span) if name in CONTENT}
        for span in recorded.spans
        if span.parent is None
    }
    assert contents == {
        "invoke_agent portal": {"gen_ai.input.messages", "gen_ai.output.messages"},
        "invoke_agent shop": set(),
    }
    said = [attributes(span).get("gen_ai.tool.call.arguments") for span in recorded.named("execute_tool add")]
    assert said == ['{"a": 1, "b": 2}', None]
    everything = "".join(span.to_json() for span in recorded.spans)
    assert "A portal" in everything
    for kept in ("A shop", "And this", "sold out"):
        assert kept not in everything


# whose child the run is ----------------------------------------------------------------------------------------------


def test_the_trace_of_the_caller_goes_on(recorded: Any, deploy: Deploy) -> None:
    """The run is below the caller's span, and the provider is told to be below the run's."""
    deployed = deploy()
    deployed.provider.script("Hello")

    deployed.events(start(deployed, headers={"traceparent": PARENT, "tracestate": "vendor=x"}))
    ended(deployed, recorded)

    agent = recorded.one("invoke_agent")
    assert hexed(agent.context.trace_id, 32) == CALLER
    assert hexed(agent.parent.span_id, 16) == ABOVE
    assert agent.parent.is_remote
    (asked,) = [request.headers for request in deployed.provider.requests if request.operation == "create"]
    assert asked["traceparent"] == f"00-{CALLER}-{hexed(agent.context.span_id, 16)}-01"
    assert asked["tracestate"] == f"bf_plugin={ABOVE},vendor=x"


def test_the_span_of_the_server_comes_first(recorded: Any, scripted: Deploy) -> None:
    """Where the gateway's own instrumentation has a span for the request, the run is below that."""
    tracer = recorded.tracers.get_tracer("gateway")

    def instrumented(app: Any) -> Any:
        def serve(environ: Any, start_response: Any) -> Any:
            with tracer.start_as_current_span("POST"):
                return app(environ, start_response)

        return serve

    deployed = scripted("Hello", wrap=instrumented)
    deployed.events(start(deployed, headers={"traceparent": PARENT}))
    ended(deployed, recorded)

    agent, served = recorded.one("invoke_agent"), {span.context.span_id for span in recorded.named("POST")}
    assert agent.parent.span_id in served


@pytest.mark.parametrize(
    "state", ["bf_plugin=00f067aa0ba902b7,a=b", "bf_plugin=zzz", "x=" + "y" * 240 + ",z=" + "w" * 250]
)
def test_a_state_of_any_kind_is_survived(recorded: Any, scripted: Deploy, state: str) -> None:
    """Another gateway's member is replaced by ours, what does not fit is left off, and the run starts."""
    deployed = scripted("Hello")
    deployed.events(start(deployed, headers={"traceparent": PARENT, "tracestate": state}))
    ended(deployed, recorded)
    assert hexed(recorded.one("invoke_agent").parent.span_id, 16) == ABOVE


def test_a_state_has_our_member_once() -> None:
    """First, as the recommendation asks of who changes it, in place of another gateway's."""
    written = write_run(int(CALLER, 16), 1, True, None, "a=b,bf_plugin=00f067aa0ba902b7,c=d")
    assert written == (f"00-{CALLER}-{1:016x}-01", "bf_plugin=0,a=b,c=d")
    many = ",".join(f"k{number}=v" for number in range(32))
    assert write_run(int(CALLER, 16), 1, False, None, many)[1] == f"bf_plugin=0,{many[: many.rindex(',')]}"


def test_a_caller_that_does_not_sample(record: Callable[..., Any], scripted: Deploy) -> None:
    """No span of the run, not of its tools either; the metrics count it all the same."""
    recorded = record()
    deployed = scripted([call("add", {"a": 1, "b": 2})], "Three", "Hello", plugins=[tools])

    deployed.events(start(deployed, headers={"traceparent": PARENT.replace("-01", "-00")}))
    deployed.gateway.wait_for(lambda: "bf_plugin.runs" in recorded.points())

    assert recorded.spans == ()
    deployed.events(deployed.start())
    ended(deployed, recorded)
    assert len(recorded.spans) == 2


class Fickle(Sampler):
    """Samples every second time it is asked, whatever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        self.asked += 1
        return (ALWAYS_OFF if self.asked % 2 == 0 else ParentBased(TraceIdRatioBased(1))).should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "fickle"


def test_a_sampler_is_asked_once_a_run(record: Callable[..., Any], scripted: Deploy) -> None:
    """A run is there with all of its spans or not at all, however a sampler decides."""
    sampler = Fickle()
    recorded = record(sampler=sampler)
    deployed = scripted([call("add", {"a": 1, "b": 2})], "one", "two", "three", plugins=[tools])

    for _ in range(3):
        deployed.events(deployed.start())
    deployed.gateway.wait_for(lambda: sum(point.value for point in recorded.points().get("bf_plugin.runs", ())) == 3)

    assert sampler.asked == 3
    assert sorted(span.name for span in recorded.spans) == sorted(
        ["chat gpt-test"] * 3 + ["execute_tool add"] + ["invoke_agent"] * 2
    )


# over takeovers ------------------------------------------------------------------------------------------------------


def test_a_run_that_is_taken_over_is_one_trace(recorded: Any, scripted: Deploy) -> None:
    """One span of the run, each step once, the tools of both lives below it, and the caller's span above."""
    gate = Gate()
    deployed = scripted(
        [call("add", {"a": 1, "b": 2})],
        ["once upon ", gate, "a time"],
        plugins=[tools],
    )
    run = start(deployed, headers={"traceparent": PARENT})
    deployed.wait_for_text(run, "once upon ")

    deployed.restart()
    gate.release()
    deployed.events(run)
    ended(deployed, recorded)

    agent = recorded.one("invoke_agent")
    assert hexed(agent.parent.span_id, 16) == ABOVE
    assert len(recorded.spans) == 4
    below = [span for span in recorded.spans if span is not agent]
    assert {span.parent.span_id for span in below} == {agent.context.span_id}
    assert [attributes(span)["bf_plugin.step.number"] for span in recorded.named("chat gpt-test")] == [1, 2]


def test_a_run_that_is_told_of_twice_is_the_same_trace_twice(recorded: Any, plugin_context: Any) -> None:
    """After a crash `on_end` may come again: the spans have the same ids, so that a backend keeps one of each."""
    from bf_hook_otel import create

    from bf_plugin import Step
    from bf_plugin.testing import new_draft, new_outcome, new_run

    first, second = create(plugin_context()), create(plugin_context())
    draft = new_draft()
    first.before_run(draft)
    trace_of_it = {"traceparent": draft.traceparent, "tracestate": draft.tracestate, "started_at": 1000.0}
    steps = (Step(number=1, response_id="resp_1", started_at=1000.1, ended_at=1000.2),)
    for plugin in (first, second):
        plugin.on_end(new_run(**trace_of_it), new_outcome(steps=steps))

    ids = [(span.name, span.context.span_id, span.start_time, span.end_time) for span in recorded.spans]
    assert len(ids) == 4
    assert len(set(ids)) == 2


def test_a_run_from_before_the_plugin(recorded: Any, plugin_context: Any) -> None:
    """It was accepted without ids of ours: it has no spans, and nothing fails, though its caller sent a trace."""
    from bf_hook_otel import create

    from bf_plugin.testing import new_call, new_outcome, new_run

    plugin = create(plugin_context())
    for run in (new_run(), new_run(traceparent=PARENT), new_run(traceparent=PARENT, tracestate="bf_plugin=zzz")):
        timing = plugin.on_tool_call(run, new_call("add"))
        next(timing)
        with pytest.raises(StopIteration):
            timing.send(ToolResult("3"))
        plugin.on_end(run, new_outcome())
    assert recorded.spans == ()


# how runs end --------------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped(recorded: Any, scripted: Deploy) -> None:
    """Its span says so and is no error; the answer that was cut off is one, with estimated tokens of the run."""
    gate = Gate()
    deployed = scripted(["so far", gate])
    run = deployed.start()
    deployed.wait_for_text(run, "so far")

    deployed.stop(run)
    deployed.events(run)
    ended(deployed, recorded)
    gate.release()

    agent, chat = recorded.one("invoke_agent"), recorded.one("chat gpt-test")
    assert attributes(agent)["bf_plugin.run.status"] == "cancelled"
    assert attributes(agent)["bf_plugin.usage.estimated"] is True
    assert agent.status.status_code is StatusCode.UNSET
    assert (attributes(chat)["error.type"], chat.status.status_code) == ("cancelled", StatusCode.ERROR)
    assert chat.end_time <= agent.end_time
    assert "gen_ai.response.finish_reasons" not in attributes(chat)


def test_a_run_that_fails(recorded: Any, scripted: Deploy) -> None:
    """Run and answer have the code of the `error` event."""
    deployed = scripted(["so far", ProviderError("the model fell over", code="server_error")])
    deployed.events(deployed.start())
    ended(deployed, recorded)
    for span in recorded.spans:
        assert (attributes(span)["error.type"], span.status.status_code) == ("server_error", StatusCode.ERROR)
        assert span.status.description is None


def test_a_run_that_a_tool_ends(recorded: Any, scripted: Deploy) -> None:
    """Ending its run is what such a tool is for: neither is an error."""
    ending = Toolbox("ending", offer="always")

    @ending.tool()
    def hang_up() -> None:
        """Hang up."""
        raise StopRun("stop")

    deployed = scripted([call("hang_up")], plugins=[ending])
    deployed.events(deployed.start())
    ended(deployed, recorded)
    assert {span.status.status_code for span in recorded.spans} == {StatusCode.UNSET}
    assert all("error.type" not in attributes(span) for span in recorded.spans)


# tools ---------------------------------------------------------------------------------------------------------------


def test_what_a_tool_does_is_below_it(recorded: Any, scripted: Deploy) -> None:
    """Spans that plain and async tools make themselves, each in its thread or task."""
    tracer = recorded.tracers.get_tracer("service")
    making = Toolbox("making", offer="always")

    @making.tool()
    def plainly() -> str:
        """Work in a thread."""
        with tracer.start_as_current_span("plain work"):
            return threading.current_thread().name

    @making.tool()
    async def slowly() -> str:
        """Work on the loop."""
        with tracer.start_as_current_span("async work"):
            await asyncio.sleep(0)
            return threading.current_thread().name

    class Cache:
        """Stands around the tools, within what is timed."""

        @hookimpl(wrapper=True)
        def on_tool_call(self, run: Run, call: ToolCall) -> Generator[None, object, object]:
            tracer.start_span(f"cache {call.name}").end()
            return (yield)

    calls = [call("plainly", call_id="c1"), call("slowly", call_id="c2")]
    deployed = scripted(calls, "done", plugins=[making, Cache()])
    deployed.events(deployed.start())
    ended(deployed, recorded)

    for work, tool in (
        ("plain work", "execute_tool plainly"),
        ("async work", "execute_tool slowly"),
        ("cache plainly", "execute_tool plainly"),
        ("cache slowly", "execute_tool slowly"),
    ):
        assert recorded.one(work).parent.span_id == recorded.one(tool).context.span_id
        inner, outer = recorded.one(work), recorded.one(tool)
        assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
    assert not trace.get_current_span().get_span_context().is_valid


def test_how_tools_fail(recorded: Any, scripted: Deploy) -> None:
    """The kind of what was raised, an answer that says so, a time-out, a tool that nobody has: never its text."""
    failing = Toolbox("failing", offer="always")

    @failing.tool()
    def raises() -> str:
        """Raise."""
        raise LookupError("of a secret")

    @failing.tool()
    async def raises_later() -> str:
        """Raise on the loop."""
        await asyncio.sleep(0)
        raise OSError("of a secret")

    @failing.tool()
    def refuses() -> ToolResult:
        """Refuse."""
        return ToolResult("not today", is_error=True)

    @failing.tool(timeout=0.05)
    async def hangs() -> None:
        """Hang."""
        await asyncio.Event().wait()

    names = ("raises", "raises_later", "refuses", "hangs", "invented")
    deployed = scripted([call(name, call_id=name) for name in names], "done", plugins=[failing])
    deployed.events(deployed.start())
    ended(deployed, recorded)
    deployed.gateway.wait_for(lambda: len(recorded.spans) == len(names) + 3)

    kinds = {
        attributes(span)["gen_ai.tool.name"]: attributes(span)["error.type"]
        for span in recorded.spans
        if span.name.startswith("execute_tool")
    }
    assert kinds == {
        "raises": "LookupError",
        "raises_later": "OSError",
        "refuses": "tool_error",
        "hangs": "timeout",
        "invented": "tool_error",
    }
    assert recorded.one("execute_tool")  # a model may invent any name: it makes no name of a span
    assert "of a secret" not in "".join(span.to_json() for span in recorded.spans)


@pytest.mark.parametrize(("message", "error"), [("timeout", "timeout"), (None, "cancelled")])
def test_an_awaitable_that_is_cancelled(recorded: Any, plugin_context: Any, message: str | None, error: str) -> None:
    """Why is in the message, not on the clock, which has been running for longer than the plugin knows."""
    from bf_hook_otel import create

    from bf_plugin.testing import new_call, new_draft, new_run

    plugin, draft = create(plugin_context()), new_draft()
    plugin.before_run(draft)

    async def cancelled() -> None:
        timing = plugin.on_tool_call(
            new_run(traceparent=draft.traceparent, tracestate=draft.tracestate), new_call("wait", timeout=60)
        )
        next(timing)
        with pytest.raises(StopIteration) as stopped:
            timing.send(asyncio.Event().wait())
        task = asyncio.ensure_future(awaited(stopped.value.value))
        await asyncio.sleep(0)
        task.cancel(message)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    (span,) = recorded.spans
    assert attributes(span)["error.type"] == error


def test_an_answer_that_comes_too_late(recorded: Any, plugin_context: Any) -> None:
    """The model was told that there is none: the span says so, whatever the tool returns in the end."""
    from bf_hook_otel import create

    from bf_plugin.testing import new_call, new_draft, new_run

    plugin, draft = create(plugin_context(section={"content": True})), new_draft()
    plugin.before_run(draft)
    timing = plugin.on_tool_call(
        new_run(traceparent=draft.traceparent, tracestate=draft.tracestate), new_call("dawdle", timeout=0.0)
    )
    next(timing)
    with pytest.raises(StopIteration):
        timing.send("too late")
    (span,) = recorded.spans
    assert attributes(span)["error.type"] == "timeout"
    assert "gen_ai.tool.call.result" not in attributes(span)


async def awaited(answer: Any) -> Any:
    return await answer


def test_a_tool_of_a_run_that_is_stopped(recorded: Any, scripted: Deploy) -> None:
    """Its span ends with the run, as cancelled."""
    begun = threading.Event()
    waiting = Toolbox("waiting", offer="always")

    @waiting.tool()
    async def wait() -> None:
        """Wait."""
        begun.set()
        await asyncio.Event().wait()

    deployed = scripted([call("wait")], plugins=[waiting])
    run = deployed.start()
    assert begun.wait(10)
    deployed.stop(run)
    deployed.events(run)
    deployed.gateway.wait_for(lambda: recorded.named("execute_tool wait"))
    assert attributes(recorded.one("execute_tool wait"))["error.type"] == "cancelled"


def test_usage_that_nobody_told(recorded: Any, deploy: Deploy) -> None:
    """No tokens are made up where the provider gives none."""
    deployed = deploy(engine=ScriptedEngine("Hello", usage=Usage()))
    deployed.events(deployed.start())
    ended(deployed, recorded)
    assert not [name for span in recorded.spans for name in attributes(span) if name.startswith("gen_ai.usage")]
