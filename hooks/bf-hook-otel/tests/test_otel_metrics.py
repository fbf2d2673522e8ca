"""Metrics of whole runs, in the SDK's own form and in Prometheus' text; and the dashboard that is drawn of them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import prometheus_client
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from bf_plugin import ProviderError, Toolbox
from bf_plugin.settings import AppSettings
from bf_plugin.testing import Deployment, Gate, call
from bf_plugin.testing.deployment import APP_KEY

Deploy = Callable[..., Deployment]

tools = Toolbox("sums", offer="always")


@tools.tool()
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def total(recorded: Any, name: str) -> float:
    points: list[Any] = recorded.points().get(name, [])
    return float(sum(point.count if hasattr(point, "count") else point.value for point in points))


def wait_for_runs(deployed: Deployment, recorded: Any, runs: int) -> dict[str, list[Any]]:
    """Wait until so many runs are counted; return the points."""
    deployed.gateway.wait_for(lambda: total(recorded, "bf_plugin.runs") == runs)
    points: dict[str, list[Any]] = recorded.points()
    return points


def test_what_is_counted(recorded: Any, scripted: Deploy) -> None:
    """Runs by how they ended, answers and their tokens by model, tools by name; with the conventions' attributes."""
    deployed = scripted(
        [call("add", {"a": 1, "b": 2}), call("add", {"a": "x"}, "call_2"), call("invented", call_id="call_3")],
        "Three",
        [ProviderError("no", code="server_error")],
        ["so far", ProviderError("no", code="server_error")],
        plugins=[tools],
        apps={"portal": AppSettings(api_keys=[SecretStr(APP_KEY)])},
        messaging="http",
    )
    deployed.events(deployed.start())
    deployed.refused(502, deployed.body())
    deployed.events(deployed.start())
    points = wait_for_runs(deployed, recorded, 2)

    runs = {point.attributes["bf_plugin.run.status"]: dict(point.attributes) for point in points["bf_plugin.runs"]}
    model = {"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-test", "bf_plugin.app": "portal"}
    server = {"server.address": "api.openai.com", "server.port": 443}
    ok = {"bf_plugin.run.status": "completed", "bf_plugin.run.finish_reason": "stop"}
    failed = {"bf_plugin.run.status": "failed", "bf_plugin.run.finish_reason": "error", "error.type": "server_error"}
    assert runs == {"completed": {**model, **server, **ok}, "failed": {**model, **server, **failed}}
    calls = {point.attributes["gen_ai.tool.name"]: point for point in points["gen_ai.execute_tool.duration"]}
    by_error = {
        (point.attributes["gen_ai.tool.name"], point.attributes.get("error.type")): point.count
        for point in points["gen_ai.execute_tool.duration"]
    }
    assert by_error == {("add", None): 1, ("add", "tool_error"): 1, ("_OTHER", "tool_error"): 1}
    assert calls["add"].attributes["bf_plugin.app"] == "portal"
    chats = [(point.count, point.attributes.get("error.type")) for point in points["gen_ai.client.operation.duration"]]
    assert sorted(chats, key=str) == [(1, "server_error"), (2, None)]
    assert all(
        point.attributes["gen_ai.operation.name"] == "chat" for point in points["gen_ai.client.operation.duration"]
    )
    tokens = {
        point.attributes["gen_ai.token.type"]: (point.count, point.sum) for point in points["gen_ai.client.token.usage"]
    }
    assert tokens == {"input": (2, 2), "output": (2, 2)}
    assert total(recorded, "gen_ai.client.operation.time_to_first_chunk") == 2
    assert total(recorded, "bf_plugin.run.time_to_first_text") == 2
    assert total(recorded, "gen_ai.invoke_agent.duration") == 2
    (answers,) = points["gen_ai.invoke_agent.inference_calls"]
    assert (answers.count, answers.sum, answers.max) == (2, 3, 2)
    assert answers.explicit_bounds == (1, 2, 4, 8, 16, 32, 64, 128)


def test_runs_under_way(recorded: Any, scripted: Deploy) -> None:
    """As many as the process drives: none that were refused, none that are over; also after a restart."""
    gate, other = Gate(), Gate()
    deployed = scripted([ProviderError("no", status=400)], [gate, "Hello"], [other, "Hello"])
    deployed.refused(400, deployed.body())
    deployed.gateway.wait_for(lambda: total(recorded, "bf_plugin.runs.active") == 0)
    run = deployed.start()
    assert total(recorded, "bf_plugin.runs.active") == 1
    gate.release()
    deployed.events(run)
    deployed.gateway.wait_for(lambda: total(recorded, "bf_plugin.runs.active") == 0)

    deployed.restart()
    run = deployed.start()
    assert total(recorded, "bf_plugin.runs.active") == 1
    deployed.application.close()
    assert "bf_plugin.runs.active" not in recorded.points()
    deployed.restart()
    other.release()
    deployed.events(run)


def test_stops_are_counted_by_reason(recorded: Any, scripted: Deploy) -> None:
    """One that somebody asked for and one that a newer run made; an end by itself is none."""
    deployed = scripted(["so far", Gate()], ["so far", Gate()], "Hello", thread_busy="interrupt")
    run = deployed.start()
    deployed.wait_for_text(run, "so far")
    deployed.stop(run)
    deployed.events(run)
    former = deployed.start(thread_id=run["threadId"])
    deployed.wait_for_text(former, "so far")
    deployed.events(deployed.start(thread_id=run["threadId"]))
    deployed.gateway.wait_for(lambda: total(recorded, "bf_plugin.stops") == 2)

    points = recorded.points()["bf_plugin.stops"]
    assert {point.attributes["bf_plugin.stop.reason"]: point.value for point in points} == {"stop": 1, "interrupt": 1}


def test_apps_that_are_keys_have_no_series(recorded: Any, scripted: Deploy) -> None:
    """Only apps that operators gave a name: a key each, as the gateway knows them, would be a series each."""
    deployed = scripted([call("add", {"a": 1, "b": 2})], "Hello", plugins=[tools])
    deployed.events(deployed.start())
    points = wait_for_runs(deployed, recorded, 1)
    assert points["gen_ai.execute_tool.duration"]
    assert [point for each in points.values() for point in each if "bf_plugin.app" in point.attributes] == []


# Prometheus ----------------------------------------------------------------------------------------------------------


def exposition(deployed: Deployment, url: str, name: str = "bf_plugin_runs_total") -> str:
    def text() -> str:
        return requests.get(url, timeout=10).text

    deployed.gateway.wait_for(lambda: name in text())
    return text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_little_of_everything(scripted: Deploy, *more: Any, **section: Any) -> Deployment:
    """Deploy, and let one run fail, with a tool before that works and one that does not; `more` are turns to come."""
    deployed = scripted(
        [call("add", {"a": 1, "b": 2}), call("add", {"a": "x"}, "call_2")],
        ["Three", ProviderError("no", code="server_error")],
        *more,
        plugins=[tools],
        sections={"otel": section},
    )
    deployed.events(deployed.start())
    return deployed


def test_a_port_for_prometheus(scripted: Deploy) -> None:
    """The text is what Prometheus reads, with each metric once; the port is free again when the gateway is closed."""
    port = free_port()
    deployed = a_little_of_everything(scripted, prometheus_port=port)
    text = exposition(deployed, f"http://127.0.0.1:{port}/metrics")

    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["bf_plugin_runs"].type == "counter"
    (run,) = families["bf_plugin_runs"].samples
    assert (run.name, run.value, run.labels["error_type"]) == ("bf_plugin_runs_total", 1.0, "server_error")
    assert families["gen_ai_client_operation_duration_seconds"].type == "histogram"
    assert families["bf_plugin_runs_active"].type == "gauge"
    assert [sample.labels["service_name"] for sample in families["target_info"].samples] == ["bf_plugin"]
    assert not [name for name in families if name.startswith("python_")]

    deployed.application.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_a_port_for_each_process(scripted: Deploy, plugin_context: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The second takes the next one; where all are taken the log says what to do, and all else works."""
    from bf_hook_otel import create

    first = free_port()
    section = {"prometheus_port": first, "prometheus_ports": 2}
    plugins = [create(plugin_context(section=section)) for _ in range(3)]
    for plugin in plugins:
        plugin.warm_up()
    assert [plugin.port for plugin in plugins] == [first, first + 1, None]
    assert f"ports {first} to {first + 1} of 127.0.0.1 are taken; raise prometheus_ports" in caplog.text
    for plugin in plugins:
        plugin.close()
    again = create(plugin_context(section=section))
    again.warm_up()
    assert again.port == first
    again.close()


def test_an_address_that_is_not_here(plugin_context: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so; nothing else fails."""
    from bf_hook_otel import create

    plugin = create(plugin_context(section={"prometheus_port": 0, "prometheus_host": "192.0.2.1"}))
    plugin.warm_up()
    assert plugin.port is None
    assert "the metrics cannot be served on 192.0.2.1:0: Cannot assign requested address" in caplog.text
    plugin.close()


def test_an_app_of_the_operators(scripted: Deploy) -> None:
    """With `prometheus = true` they are in the registry that every app of prometheus_client serves, until the close."""
    served = prometheus_client.make_wsgi_app()

    def beside(gateway: Any) -> Any:
        return lambda environ, start: (served if environ["PATH_INFO"] == "/hello/metrics" else gateway)(environ, start)

    deployed = scripted("Hello", sections={"otel": {"prometheus": True}}, inner=beside)
    deployed.events(deployed.start())
    text = exposition(deployed, deployed.url + "/hello/metrics")
    assert "gen_ai_invoke_agent_duration_seconds_bucket" in text
    deployed.application.close()
    assert "gen_ai" not in prometheus_client.generate_latest().decode()


# the dashboard -------------------------------------------------------------------------------------------------------

DASHBOARD = json.loads((files("bf_hook_otel") / "dashboard.json").read_text(encoding="utf-8"))

_NAME = re.compile(r"\b([a-z_]+(?:_total|_bucket|_sum|_count|_active))\b(?=[{\[)]|$)")
_LABELS = re.compile(r"\{([^}]*)\}")
_BY = re.compile(r"by \(([^)]*)\)")


def queries() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]


def test_the_dashboard_asks_for_what_there_is(scripted: Deploy) -> None:
    """Each query names a metric of the exposition, and only labels that the metric has (and Prometheus' own `job`)."""
    port = free_port()
    deployed = a_little_of_everything(scripted, ["so far", Gate()], prometheus_port=port)
    run = deployed.start()
    deployed.wait_for_text(run, "so far")
    deployed.stop(run)
    text = exposition(deployed, f"http://127.0.0.1:{port}/metrics", "bf_plugin_stops_total")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)

    assert len(queries()) > 15
    for query in queries():
        names = _NAME.findall(query.removeprefix("label_values(").replace(",", ")"))
        assert names, query
        asked = {
            part.split("=")[0].rstrip("!~").strip() for group in _LABELS.findall(query) for part in group.split(",")
        }
        asked |= {label.strip() for group in _BY.findall(query) for label in group.split(",")}
        asked -= {"job", ""}
        for name in names:
            assert name in labels, f"{name} of {query}"
            assert asked <= labels[name], f"{asked - labels[name]} of {query}"


def test_legends_have_the_labels_of_their_query() -> None:
    """A legend of a label that was summed away would be empty."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = {label.strip() for group in _BY.findall(target["expr"]) for label in group.split(",")}
            assert shown <= kept, target
