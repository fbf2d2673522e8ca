"""Finding and loading plugins, engines and messengers, against distributions made for the test."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from bf_plugin.errors import ConfigurationError
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.defaults import NAMES
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.plugins.loaded import PluginReport, Plugins
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.plugins.toolbox import Toolbox
from bf_plugin.settings import Settings
from bf_plugin.values import Run, RunDraft

Install = Callable[..., None]

INSTALLED = {entry.name for entry in importlib.metadata.entry_points(group="bf_plugin")}
"""What this environment has: with tox, all the distributions in hooks/."""

GOOD = """
    from bf_plugin.plugins.hookspecs import hookimpl

    @hookimpl
    def on_end(run, outcome):
        pass
"""

ENGINE = """
    class Engine:
        def __init__(self, context):
            self.context = context
        async def start(self, request, access): ...
        async def cancel(self, handle, access): ...
        def cut(self, state, handle): ...
        async def aclose(self): ...
"""


def without(*names: str) -> Settings:
    """Return settings that leave out plugins, engines and messengers of these names."""
    return Settings(plugins_disabled=",".join(names))


def report_on(plugins: Plugins, name: str, kind: str = "plugin") -> PluginReport:
    (report,) = [report for report in plugins.reports if (report.name, report.kind) == (name, kind)]
    return report


def registered(plugins: Plugins) -> list[str]:
    """Return the names of what pluggy has, without the defaults and what this environment has installed."""
    names = [name for name, _ in plugins.manager.list_name_plugin()]
    return [name for name in names if name not in {*NAMES, *INSTALLED}]


# plugins -------------------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_found(install: Install) -> None:
    """A module named by an entry point is registered and reported with distribution, version and hooks."""
    install("acme_log", GOOD, plugin="audit = acme_log")
    assert report_on(load_plugins(), "audit") == PluginReport(
        name="audit", kind="plugin", status="ok", distribution="acme_log", version="1.2", hooks=("on_end",)
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import not_there_at_all", "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("syntax error", "cannot be imported: SyntaxError"),
        ("x = 1", "implements no hook"),
        (GOOD.replace("on_end", "on_finish"), "implements on_finish, which is not a hook; hooks are before_run,"),
        (GOOD.replace("outcome", "result"), "Argument(s) {'result'} are declared in the hookimpl but can not be found"),
        (GOOD.replace("def", "async def"), "on_end is async: hooks are plain functions"),
        (
            GOOD.replace("hookimpl\n    def", "hookimpl(wrapper=True)\n    def"),
            "on_end is marked wrapper=True, but does not yield",
        ),
        (
            GOOD.replace("hookimpl\n    def", "hookimpl(hookwrapper=True)\n    def").replace("pass", "yield"),
            "on_end is marked hookwrapper=True: use wrapper=True",
        ),
        (
            GOOD.replace("def on_end(run, outcome)", "async def on_tool_call(run, call)"),
            "on_tool_call is async: hooks are plain functions; return an awaitable for the calls that are yours",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_skipped(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, problem: str
) -> None:
    """The log and the report say which and why; the others load, and nothing of it stays registered."""
    install("bad", source, plugin="broken = bad")
    install("good", GOOD, plugin="sound = good")
    plugins = load_plugins(settings=without(*INSTALLED))
    report = report_on(plugins, "broken")
    assert (report.status, report.hooks) == ("failed", ())
    assert report.problem is not None
    assert problem in report.problem
    assert "plugin broken of bad 1.2 is not loaded" in caplog.text
    assert registered(plugins) == ["sound"]
    assert len(plugins.manager.hook.on_end.get_hookimpls()) == 2  # run_log and sound


@pytest.mark.parametrize(
    ("requires", "status"),
    [
        ("bf_plugin>=0.1,<1", "ok"),
        ("bf-plugin >= 0.1", "ok"),
        ("BF.plugin>=99; extra == 'future'", "ok"),
        ("requests>=99", "ok"),
        ("bf_plugin>=99,<100", "failed"),
    ],
)
def test_another_major_version_is_refused(install: Install, requires: str, status: str) -> None:
    """A distribution made for another bf_plugin is not even imported."""
    install("dated", GOOD, requires=requires, plugin="dated = dated")
    report = report_on(load_plugins(), "dated")
    assert report.status == status
    if status == "failed":
        assert str(report.problem).startswith("needs bf_plugin")
        assert "dated" not in sys.modules


def test_disabled_plugins_are_not_imported(install: Install) -> None:
    """An operator can leave out a plugin that breaks on import, and a default."""
    install("bad", "import not_there", plugin="broken = bad")
    plugins = load_plugins(settings=without("broken", "run_log"))
    assert report_on(plugins, "broken").status == "disabled"
    assert report_on(plugins, "run_log").status == "disabled"
    assert not plugins.manager.has_plugin("run_log")


def test_required_plugins(install: Install) -> None:
    """One that is not installed, is disabled or failed is missed, without what its factory said; others may fail."""
    install("bad", "def make(context): raise ValueError('hunter2')", plugin="broken = bad:make")
    plugins = load_plugins([Toolbox("given")], settings=without("run_log"))
    plugins.require(["given", "unknown_tool"])
    plugins.require([])
    for name, why in (("absent", "no such plugin is installed"), ("broken", "say why"), ("run_log", "say why")):
        with pytest.raises(
            ConfigurationError, match=f"BF_PLUGINS_REQUIRED: plugin {name} is not loaded.*{why}"
        ) as caught:
            plugins.require(["given", name])
        assert "hunter2" not in str(caught.value)


def test_two_plugins_of_one_name(install: Install) -> None:
    """The second, by the name of its distribution, is reported; the first works."""
    install("bbb", GOOD, plugin="twin = bbb")
    install("aaa", GOOD, plugin="twin = aaa")
    twins = [report for report in load_plugins().reports if report.name == "twin"]
    assert [(twin.distribution, twin.status, twin.problem) for twin in twins] == [
        ("aaa", "ok", None),
        ("bbb", "failed", "another plugin has this name"),
    ]


def test_order_of_registration(install: Install) -> None:
    """Defaults, then installed, then given: pluggy calls the last registered first."""

    class Own:
        name = "own"

        @hookimpl
        def on_end(self, run: Run) -> None: ...

    install("acme_log", GOOD, plugin="audit = acme_log")
    names = [name for name, _ in load_plugins([Own()], settings=without(*INSTALLED)).manager.list_name_plugin()]
    assert names == [*NAMES, "audit", "own"]


def test_factories_get_their_section(install: Install) -> None:
    """A class or a function is called with a context that holds the plugin's settings, which it cannot change."""
    source = """
        from bf_plugin.plugins.hookspecs import hookimpl

        class Plugin:
            def __init__(self, context):
                self.context = context

            @hookimpl
            def on_end(self, run):
                pass

        def make(context):
            return Plugin(context)
    """
    install("acme", source, plugin="direct = acme:Plugin\nmade = acme:make")
    plugins = load_plugins(settings=Settings(plugins={"made": {"limit": 3}}))
    stand_ins: dict[str, Any] = dict(plugins.manager.list_name_plugin())
    contexts = {name: stand_ins[name].plugin.context for name in ("direct", "made")}
    assert (contexts["direct"].name, dict(contexts["direct"].section)) == ("direct", {})
    assert (contexts["made"].name, dict(contexts["made"].section)) == ("made", {"limit": 3})
    with pytest.raises(TypeError):
        contexts["made"].section["limit"] = 4


def test_a_failing_factory_is_reported_without_the_values_it_quotes(install: Install) -> None:
    """Kind, first line and place; validators quote what they refuse further down, as a password."""
    install("acme", "def make(context): raise ValueError('bad section\\nhunter2')", plugin="made = acme:make")
    assert report_on(load_plugins(), "made").problem == "its factory failed: ValueError: bad section (acme.py:1)"


def test_given_plugins(caplog: pytest.LogCaptureFixture) -> None:
    """Objects, classes and modules may be given in code; they are named by what they say or are called."""

    class Greeter:
        def __init__(self, context: PluginContext) -> None:
            self.context = context

        @hookimpl
        def before_run(self, run: RunDraft) -> None: ...

    module = ModuleType("my_hooks")
    module.on_end = hookimpl(specname="on_end")(lambda run: None)  # type: ignore[attr-defined]
    settings = Settings(plugins={"Greeter": {"a": 1}})
    plugins = load_plugins([Toolbox("tools"), Greeter, module, object()], settings=settings)
    assert registered(plugins) == ["tools", "Greeter", "my_hooks"]
    assert report_on(plugins, "Greeter").hooks == ("before_run",)
    assert report_on(plugins, "tools").distribution is None
    assert report_on(plugins, "object").problem == "implements no hook: mark its functions with @hookimpl"
    assert "plugin object is not loaded" in caplog.text


def test_a_given_plugin_takes_the_place_of_an_installed_one(install: Install) -> None:
    """What the code says wins over what happens to be installed, and the report says so."""
    install("acme_log", GOOD, plugin="audit = acme_log")
    plugins = load_plugins([Toolbox("audit")])
    assert [(report.status, report.distribution) for report in plugins.reports if report.name == "audit"] == [
        ("replaced", "acme_log"),
        ("ok", None),
    ]


def test_an_optional_unknown_hook_is_no_failure(install: Install) -> None:
    """A plugin may implement a hook that a later version has."""
    more = GOOD + "\n    @hookimpl(optionalhook=True)\n    def on_someday(run):\n        pass\n"
    install("early", more, plugin="early = early")
    assert report_on(load_plugins(), "early").hooks == ("on_end",)


def test_two_loads_share_nothing() -> None:
    """Two mounts in one process have plugins of their own."""
    first, second = load_plugins([Toolbox("one")]), load_plugins([Toolbox("two")])
    assert (registered(first), registered(second)) == (["one"], ["two"])


# engines and messengers ----------------------------------------------------------------------------------------------


def test_engines_and_messengers_are_made(install: Install) -> None:
    """Each is called with a context: its own section, and the settings of the gateway."""
    source = ENGINE + "\n    class Pigeon:\n        def __init__(self, context): ...\n"
    source += "        async def send(self, destination, message): ...\n        async def aclose(self): ...\n"
    install("acme", source, engine="acme = acme:Engine", messenger="pigeon = acme:Pigeon")
    gateway = Settings(plugins={"acme": {"region": "eu"}})
    plugins = load_plugins(settings=gateway)
    engine: Any = plugins.engines["acme"]
    assert (dict(engine.context.section), engine.context.settings) == ({"region": "eu"}, gateway)
    assert type(plugins.messengers["pigeon"]).__name__ == "Pigeon"
    assert report_on(plugins, "acme", "engine").status == "ok"
    assert report_on(plugins, "pigeon", "messenger").version == "1.2"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import not_there", "cannot be imported"),
        (ENGINE.replace("def cut", "def cutt"), "is no engine: it has no cut"),
        ("def Engine(context): raise OSError('no')", "its factory failed: OSError: no"),
        ("Engine = 3", "its factory failed: TypeError"),
    ],
)
def test_a_broken_engine_is_named_and_left_out(install: Install, source: str, problem: str) -> None:
    """Its provider is unknown, the others are there."""
    install("acme", source, engine="acme = acme:Engine")
    plugins = load_plugins()
    assert problem in str(report_on(plugins, "acme", "engine").problem)
    assert "acme" not in plugins.engines


def test_a_distribution_replaces_the_built_in_engine(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says that the built-in one is not used, and by which it is replaced."""
    install("bf_plugin", ENGINE, engine="openai = other:Engine")
    install("other", ENGINE, engine="openai = other:Engine")
    monkeypatch.setattr("bf_plugin.plugins.entrypoints._our_version", lambda: None)
    plugins = load_plugins()
    openai = [report for report in plugins.reports if (report.kind, report.name) == ("engine", "openai")]
    assert [(report.distribution, report.status, report.problem) for report in openai] == [
        ("bf_plugin", "replaced", "other is used instead"),
        ("other", "ok", None),
    ]


def test_two_engines_of_one_name_need_a_choice(install: Install) -> None:
    """The start fails and says what to set; with the choice made it goes on, however the name is spelled."""
    install("acme_one", ENGINE, engine="acme = acme_one:Engine")
    install("acme_two", ENGINE, engine="acme = acme_two:Engine")
    with pytest.raises(ConfigurationError, match=r"acme_one, acme_two.*BF_ENGINES=acme=DISTRIBUTION"):
        load_plugins()
    plugins = load_plugins(settings=Settings(engines="acme=ACME-two"))
    assert type(plugins.engines["acme"]).__module__ == "acme_two"


def test_a_choice_that_is_not_installed(install: Install) -> None:
    """A choice that cannot be met fails the start and lists what there is."""
    install("acme_one", ENGINE, engine="acme = acme_one:Engine")
    with pytest.raises(ConfigurationError, match=r"acme_three is not installed .*from: acme_one"):
        load_plugins(settings=Settings(engines="acme=acme_three"))


def test_two_messengers_of_one_scheme_fail_the_start(install: Install) -> None:
    """Nothing chooses between them but what is installed."""
    for name in ("one", "two"):
        install(name, ENGINE, messenger=f"pigeon = {name}:Engine")
    with pytest.raises(ConfigurationError, match=r"messenger pigeon \(one, two\): uninstall all but one"):
        load_plugins()


def test_disabled_engines_are_not_loaded(install: Install) -> None:
    """An operator can do without an engine, which also settles which of two is meant."""
    install("acme", ENGINE, engine="acme = acme:Engine")
    plugins = load_plugins(settings=without("acme"))
    assert report_on(plugins, "acme", "engine").status == "disabled"
    assert "acme" not in plugins.engines


# closing -------------------------------------------------------------------------------------------------------------


class Closing:
    """A plugin that notes how it is closed."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    @hookimpl
    def on_end(self, run: Run) -> None: ...

    async def aclose(self) -> None:
        self.said.append(f"{self.name} aclose")
        if self.name == "hangs":
            await asyncio.Event().wait()
        if self.name == "broken":
            raise OSError("stuck")

    def close(self) -> None:
        self.said.append(f"{self.name} close")
        if self.name == "broken":
            raise OSError("stuck")


def test_close_reaches_all_though_some_fail(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """Everything that can be closed is, the last registered first; failures are logged by name."""
    caplog.set_level(logging.ERROR)
    said: list[str] = []
    install(
        "acme", ENGINE.replace("aclose(self): ...", "aclose(self): raise OSError('gone')"), engine="a = acme:Engine"
    )
    names = ("one", "broken", "three")
    plugins = load_plugins([*(Closing(name, said) for name in names), Toolbox("no close")])
    asyncio.run(plugins.aclose())
    assert sorted(said) == ["broken aclose", "one aclose", "three aclose"]
    plugins.close()
    assert said[3:] == ["three close", "broken close", "one close"]
    assert "engine a failed in aclose: gone" in caplog.text
    assert "plugin broken failed in aclose: stuck" in caplog.text
    assert "plugin broken failed in close: stuck" in caplog.text


def test_what_hangs_in_its_closing_is_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are closed meanwhile, and the log names it."""
    monkeypatch.setattr("bf_plugin.plugins.loaded._PART_TIMEOUT", 0.05)
    said: list[str] = []
    asyncio.run(load_plugins([Closing("hangs", said), Closing("other", said)]).aclose())
    assert sorted(said) == ["hangs aclose", "other aclose"]
    assert "plugin hangs hangs in aclose" in caplog.text


def test_plugins_are_closed_when_the_engine_to_use_is_open(install: Install) -> None:
    """The start fails, and is tried again every few seconds: nothing of the failed one stays."""
    install("acme", ENGINE, engine="a = acme:Engine")
    install("other", ENGINE, engine="a = other:Engine")
    said: list[str] = []
    with pytest.raises(ConfigurationError, match="BF_ENGINES"):
        load_plugins([Closing("one", said)])
    assert said == ["one close"]


def test_an_engine_given_in_code_takes_the_place_of_installed_ones(install: Install) -> None:
    """As plugins do: nothing is chosen or loaded for its name."""
    install("acme", "raise ImportError('not loaded')", engine="a = acme:Engine")
    install("other", ENGINE, engine="a = other:Engine")
    given: Any = object()
    plugins = load_plugins(engines={"a": given})
    assert plugins.engines["a"] is given
    reports = [(report.distribution, report.status) for report in plugins.reports if report.name == "a"]
    assert reports == [("acme", "replaced"), ("other", "replaced")]


def test_a_factory_may_keep_its_store_and_loop_without_a_mount() -> None:
    """As under `bf-plugin plugins`; one that uses them at once is reported, with what to do."""

    class Keeps:
        def __init__(self, context: PluginContext) -> None:
            self.store, self.run_async = context.store, context.run_async

        @hookimpl
        def on_end(self, run: Run) -> None: ...

    class Uses(Keeps):
        def __init__(self, context: PluginContext) -> None:
            super().__init__(context)
            self.store.get("a")

    plugins = load_plugins([Keeps, Uses])
    assert report_on(plugins, "Keeps").status == "ok"
    problem = report_on(plugins, "Uses").problem or ""
    assert "context.store works in a running gateway only" in problem
    assert "use it in hooks, not in the factory" in problem
