"""What operators set, what is loaded when, and the rules for distributions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bf_hook_providers import anthropic, chat, gemini

from bf_plugin import ConfigurationError, PluginContext
from bf_plugin.engines.port import Access
from bf_plugin.errors import RequestError
from bf_plugin.testing import check_plugin, new_draft

FACTORIES = {"anthropic": anthropic.create_engine, "chat": chat.create_engine, "gemini": gemini.create_engine}
FILE = [{"type": "input_file", "file_id": "file-1"}]
KEY = "sk-secret-of-the-operator"


def test_it_keeps_the_rules():
    """Port, closing, requirements."""
    check_plugin("bf-hook-providers")


@pytest.mark.parametrize(
    ("name", "section", "told"),
    [
        ("anthropic", {"api_kee": KEY}, "api_kee: Extra inputs"),
        ("anthropic", {"max_tokens": 0}, "max_tokens: Input should be greater"),
        ("anthropic", {"base_url": "ftp://example.com"}, "base_url: must be a URL such as"),
        ("gemini", {"base_url": f"https://me:{KEY}@example.com"}, "base_url: must hold no user and no password"),
        ("gemini", {"reasoning": "deep"}, "reasoning: Input should be 'level' or 'budget'"),
        ("gemini", {"silence": 0, "api_version": "v1/"}, "silence: .*; api_version: "),
        ("chat", {"api_key": [KEY]}, "api_key: Input should be a valid string"),
        ("chat", {"without": ["tools"]}, "without.0: Input should be"),
        ("chat", {"api_key": KEY, "api_key_file": "/run/key"}, "api_key and api_key_file exclude each other"),
        ("chat", {"api_key_file": "/nowhere/at/all"}, "api_key_file: cannot be read: No such file"),
    ],
)
def test_bad_settings(name, section, told):
    """Each is named, with its table, and no value is quoted."""
    with pytest.raises(ConfigurationError, match=told) as error:
        FACTORIES[name](PluginContext(name=name, section=section))
    assert f"[plugins.{name}]" in str(error.value)
    assert KEY not in repr(error.value)


def test_a_key_in_a_file(bench, dialect, tmp_path):
    """Where the caller sends none, the operator's is used: written, or in a file."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    for section in ({"api_key": KEY}, {"api_key_file": str(file)}):
        bench.asked(dialect, section=section, key="")
        assert dialect.key_of(bench.server.request) == KEY


def test_keys_are_not_shown():
    """Not where a section is printed, as in a traceback."""
    section = {"api_key": KEY, "headers": {"Authorization": KEY}}
    for name, create in FACTORIES.items():
        engine = create(PluginContext(name=name, section=section))
        assert KEY not in repr(engine._provider.section) + repr(vars(engine))


def test_a_provider_that_is_not_set_up(deployed):
    """Without a server, `chat` says what is missing; without a key, each does that needs one."""
    for section, told in (({}, "has no base_url"), ({"base_url": "http://127.0.0.1:9/v1"}, "no key for provider chat")):
        engine = FACTORIES["chat"](PluginContext(name="chat", section=section))
        with pytest.raises(RequestError, match=told):
            engine.check(new_draft("Hi", provider="chat"), Access(api_key=""))
    local = {"base_url": "http://127.0.0.1:9/v1", "needs_key": False}
    assert FACTORIES["chat"](PluginContext(name="chat", section=local)).check(new_draft("Hi"), Access(api_key="")) == []
    refused = deployed.body("Hi", provider="anthropic", model="m", apiKey=None)
    assert "no key for provider anthropic" in deployed.refused(400, refused)["message"]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"tools": [{"type": "code_interpreter"}]}, "payload.tools"),
        ({"tool_choice": {"type": "file_search"}}, "payload.tool_choice"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
            "payload.messages",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_run(deployed, dialect, payload, field):
    """Tools that run at OpenAI, files that are there: named, and no run is begun."""
    body = deployed.body(**{"provider": dialect.name, "model": dialect.model, **payload})
    assert list(deployed.refused(400, body)["errors"]) == [field]


def test_what_is_ignored_is_told(deployed, wire, dialect):
    """With the answer of the start."""
    wire.script(dialect.answer("Ok"))
    args = {"truncation": "auto", "safety_identifier": "someone"}
    run = deployed.start(provider=dialect.name, model=dialect.model, providerArgs=args)
    deployed.events(run)
    ignored = ["truncation", *(["safety_identifier"] if dialect.name == "gemini" else [])]
    assert run["warnings"] == [
        f"payload.providerArgs.{name} is ignored: provider {dialect.name} has no equivalent" for name in ignored
    ]


def test_what_is_not_used_costs_nothing():
    """No SDK is loaded before a provider is set up or used, not even at the start of a gateway."""
    program = """
import importlib, sys
from bf_plugin import PluginContext
for name in ("anthropic", "chat", "gemini"):
    engine = importlib.import_module("bf_hook_providers." + name).create_engine(PluginContext(name=name))
    engine.warm_up()
print(sorted({"anthropic", "google.genai", "openai"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_what_is_set_up_is_loaded_at_the_start(monkeypatch):
    """Then the first run need not wait for it."""
    loaded = []
    for name, create in FACTORIES.items():
        engine = create(PluginContext(name=name, section={"base_url": "https://llm.example.com"}))
        monkeypatch.setattr(type(engine._provider), "load", lambda provider: loaded.append(provider.name))
        engine.warm_up()
    assert loaded == ["anthropic", "chat", "gemini"]


def test_without_the_sdk(deploy, monkeypatch):
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "anthropic", None)
    deployed = deploy(sections={"anthropic": {"api_key": KEY}})
    error = deployed.refused(400, deployed.body(provider="anthropic", model="m"))
    assert "pip install 'bf-hook-providers[anthropic]'" in error["message"]
