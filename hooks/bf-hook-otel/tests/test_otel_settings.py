"""Settings, names and the README: what the distribution promises about itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from bf_hook_otel import create, names
from bf_hook_otel.settings import OtelSettings, read_settings

from bf_plugin import ConfigurationError
from bf_plugin.testing import (
    Deployment,
    Site,
    check_plugin,
)
from bf_plugin.testing.deployment import ACTION, CHANNEL, PROVIDER_KEY

Deploy = Callable[..., Deployment]


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            {"contents": True},
            r"\[plugins.otel\] contents: Extra inputs.*there are: content, prometheus, prometheus_port",
        ),
        ({"content": "yes"}, r"\[plugins.otel\] content: say true, false, or a list of the apps"),
        ({"content": ["portal", 1]}, r"\[plugins.otel\] content: say true, false, or a list of the apps"),
        ({"prometheus_port": 70000}, r"\[plugins.otel\] prometheus_port: Input should be less than or equal to 65535"),
        ({"prometheus_ports": 0}, r"\[plugins.otel\] prometheus_ports: Input should be greater than or equal to 1"),
        ({"provider_names": {"a": 1}}, r"\[plugins.otel\] provider_names.a: Input should be a valid string"),
    ],
)
def test_settings_that_cannot_work(section: dict[str, Any], problem: str, plugin_context: Any) -> None:
    """Named when the plugin is loaded, without their values."""
    with pytest.raises(ConfigurationError, match=problem):
        create(plugin_context(section=section))


def test_content_of_an_app_that_is_not_there(scripted: Deploy, caplog: pytest.LogCaptureFixture) -> None:
    """A slip in a name would keep what somebody asked for: the plugin is not loaded, and the log says why."""
    with pytest.raises(ConfigurationError, match=r"content: there is no app portol; there are: portal, shop"):
        read_settings({"content": ["portol"]}, {"shop", "portal"})
    with pytest.raises(ConfigurationError, match=r"content: there is no app portal; none has a name without BF_APPS"):
        read_settings({"content": ["portal"]}, ())
    assert read_settings({"content": ["portal"]}, None).has_content("portal")
    deployed = scripted(sections={"otel": {"content": ["portol"]}})
    deployed.application.start()
    assert "[plugins.otel] content: there is no app portol" in caplog.text
    deployed.application.close()


def test_names_are_those_of_the_conventions() -> None:
    """As the SDK has them; it has none yet for what was added when the conventions had moved."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
    from opentelemetry.semconv.attributes import error_attributes, server_attributes

    known = {
        value
        for module in (gen_ai_attributes, gen_ai_metrics, error_attributes, server_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {
        value for value in vars(names).values() if isinstance(value, str) and value.startswith(("gen_ai.", "server."))
    }
    assert len(ours) > 20
    assert ours - known == {names.AGENT_DURATION, names.AGENT_CALLS, names.TOOL_DURATION}


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_first_look_of_the_readme(site: Site) -> None:
    """Its command prints the spans of a run of the demo."""
    environ, program, *arguments = re.findall(r"^(OTEL_\S+ bf-plugin demo)$", README, re.MULTILINE)[0].split()
    name, _, value = environ.partition("=")
    server = site.serve(program, *arguments, "--port", "0", **{name: value})
    url = server.wait_for(r"The demo is at (http://\S+)")[1]
    payload = {"apiKey": PROVIDER_KEY, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    body = {"apiKey": "BFAPI_demo", "channels": [CHANNEL], "actionName": ACTION, "payload": payload}
    requests.post(f"{url}/stream/create/assistants", json=body, timeout=30).raise_for_status()
    server.wait_for(r'"name": "chat ')
    server.wait_for(r'"name": "invoke_agent"')
    assert server.stop() == 0


def test_the_readme_has_all_metrics_and_settings() -> None:
    """Each once in a table, with the name that Prometheus has for it, and none that is not there."""
    metrics = {value for value in vars(names).values() if isinstance(value, str) and value in README}
    rows = re.findall(r"^\| `((?:gen_ai|bf_plugin)\.[a-z_.]+)`", README, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 10
    assert set(rows) <= metrics
    settings = re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| [^|]+ \|$", README, re.MULTILINE)
    assert sorted(settings) == sorted(OtelSettings.model_fields)


def test_provider_names(recorded: Any, scripted: Deploy) -> None:
    """What the conventions call a provider may not be what its engine is called."""
    deployed = scripted("Hello", sections={"otel": {"provider_names": {"openai": "azure.ai.openai"}}})
    deployed.events(deployed.start())
    deployed.gateway.wait_for(lambda: recorded.named("invoke_agent"))
    assert recorded.one("invoke_agent").attributes[names.PROVIDER] == "azure.ai.openai"


def test_loading_starts_nothing(monkeypatch: pytest.MonkeyPatch, plugin_context: Any) -> None:
    """As under `bf-plugin plugins`: no thread, no port, no connection, whatever is configured."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    before = set(threading.enumerate())
    plugin = create(plugin_context(section={"prometheus_port": 0}))
    assert {thread for thread in threading.enumerate() if thread.name != "bf-loop"} <= before
    plugin.close()


def test_it_keeps_the_rules(recorded: Any) -> None:
    """What bf_plugin asks of every distribution; and it costs nothing per piece of text."""
    (found,) = check_plugin("bf-hook-otel")
    assert "on_delta" not in found.hooks


def test_it_keeps_the_rules_without_providers() -> None:
    """Also where nothing is configured, as after a bare installation."""
    check_plugin("bf-hook-otel", section={"prometheus_port": 0})
