"""The checks of plugins: what keeps the rules passes, alone and as a distribution."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bf_plugin import Delta, PluginContext, Run, StopRun, Toolbox, in_thread
from bf_plugin.plugins.defaults import run_log, unknown_tool
from bf_plugin.testing import Conformance, check_plugin, new_run, shown
from bf_plugin.testing.conformance.watch import Watch

if TYPE_CHECKING:
    from bf_plugin import values
from offenders import Mask, broken, only, plugin


def test_a_good_plugin_passes(caplog: pytest.LogCaptureFixture) -> None:
    """With all hooks, settings and a life of its own; what its on_delta costs is measured, and nothing is logged."""
    made: list[Mask] = []

    def factory(context: PluginContext) -> Mask:
        made.append(Mask(context))
        return made[-1]

    (found,) = check_plugin(factory, section={"word": "fox"}, texts=["fox", "fo", "x"], examples=200)

    assert found.name == "factory"
    assert found.hooks == ("before_run", "on_delta", "on_tool_call", "on_end", "on_stop")
    assert found.on_delta_us is not None
    assert found.on_delta_us > 0
    assert [mask.word for mask in made] == ["fox"] * len(made)
    assert [mask.closed for mask in made if mask.closed] == [["aclose", "close"]] * 2
    assert [record.getMessage() for record in caplog.records if record.name.startswith("bf_plugin")] == []


@pytest.mark.parametrize("thing", [run_log, unknown_tool, Toolbox("empty", offer="always")])
def test_the_defaults_and_toolboxes_pass(thing: object) -> None:
    """Nobody is asked for more than the core does itself."""
    (found,) = check_plugin(thing)
    assert isinstance(found, Conformance)
    assert found.on_delta_us is None


def test_a_guard_that_stops_runs_passes() -> None:
    """How much was shown before a stop depends on how the text was cut; that there is one must not."""

    def on_delta(run: Run, delta: Delta) -> None:
        said = run.scratch["said"] = run.scratch.get("said", "") + delta.text
        if "fox" in said:
            raise StopRun("content_filter")

    check_plugin(plugin(on_delta=on_delta), texts=["fox"])


def test_annotations_may_name_what_only_type_checkers_import() -> None:
    """Then they are compared by their text."""

    def on_end(run: values.Run, outcome: values.Outcome) -> None: ...
    def on_stop(run: values.Run, reason: values.StopReason) -> None: ...

    check_plugin(plugin(on_end=on_end, on_stop=on_stop))

    def before_run(run: values.Run) -> None: ...

    assert only(plugin(before_run=before_run)) == (
        "typed",
        "run of before_run is annotated values.Run, the hook has RunDraft",
    )


def test_annotations_may_be_wider() -> None:
    """A hook that takes anything takes what it is given."""

    def on_end(run: object, outcome: Any) -> None: ...
    def on_stop(reason: str) -> None: ...

    check_plugin(plugin(on_end=on_end, on_stop=on_stop))


def test_a_blocking_on_delta_passes_in_a_thread() -> None:
    """`@in_thread` is for that, and there the store may be used too."""

    def factory(context: PluginContext) -> object:
        @in_thread
        def on_delta(run: Run, delta: Delta) -> None:
            context.store.get("word")
            socket.getaddrinfo("127.0.0.1", 80)

        return plugin(on_delta=on_delta)

    check_plugin(factory, examples=5)


RANGE = "bf_plugin>=0.1,<1"
GOOD = """
    from bf_plugin import Run, Toolbox, hookimpl

    tools = Toolbox("acme")

    @hookimpl
    def on_end(run: Run) -> None: ...
"""


def test_all_that_a_distribution_offers_is_checked(install: Callable[..., None]) -> None:
    """Each plugin of it, by the names of its entry points."""
    install("acme", GOOD, requires=RANGE, plugin="audit = acme\ntools = acme:tools")
    assert [found.name for found in check_plugin("acme")] == ["audit", "tools"]


@pytest.mark.parametrize("requires", ["aiohttp", "bf_plugin", "bf_plugin>=0.1", "bf_plugin<1"])
def test_requirement(install: Callable[..., None], requires: str) -> None:
    """Without both bounds an incompatible release is not reported, it fails in the middle of a run."""
    install("acme", GOOD, requires=requires, plugin="audit = acme")
    assert only("acme") == ("requirement", "acme does not say which releases of bf_plugin it works with")


def test_a_distribution_that_cannot_be_imported(install: Callable[..., None]) -> None:
    """It is named with the reason, as in the gateway's log."""
    install("acme", "import not_there_at_all", requires=RANGE, plugin="audit = acme")
    rule, what = only("acme")
    assert rule == "loads"
    assert "No module named 'not_there_at_all'" in what


def test_port(install: Callable[..., None]) -> None:
    """Engines and messengers are compared with their ports."""
    source = """
        class Engine:
            def __init__(self, context): ...
            def start(self, request, access): ...
            async def cancel(self, handle, access): ...
            async def cut(self, state, handle): ...
            async def aclose(self): ...

        class Messenger:
            def __init__(self, context): ...
            async def send(self, destination, message): ...
            async def aclose(self): ...
    """
    install("acme", source, requires=RANGE, engine="acme = acme:Engine", messenger="pigeon = acme:Messenger")
    assert broken("acme") == [
        ("port", "start is not a coroutine function"),
        ("port", "it has no resume"),
        ("port", "cut is not a plain function"),
    ]


def test_the_built_in_engine_and_messengers_pass() -> None:
    """The core is a distribution like the others, but for what it requires."""
    found = broken("bf_plugin")
    assert {rule for rule, _ in found} == {"requirement"}
    assert len(found) == 3


def test_what_is_not_installed_is_a_mistake_of_the_test() -> None:
    """Not a rule that is broken."""
    with pytest.raises(LookupError, match="no distribution not-there is installed"):
        check_plugin("not-there")
    with pytest.raises(LookupError, match=r"pytest has no entry point of the groups bf_plugin, bf_plugin.engines"):
        check_plugin("pytest")


def test_a_watch_sees_its_own_thread_only() -> None:
    """And nothing before it was entered or after it was left."""
    Path(__file__).read_bytes()
    with Watch() as watch:
        sum(range(10))
    Path(__file__).read_bytes()
    assert watch.seen == set()


def test_shown_gives_an_implementation_what_it_takes() -> None:
    """Also the run, and whether it is a replay."""
    run, seen = new_run(), []

    def on_delta(delta: Delta) -> None:
        seen.append((delta.text, delta.replay, delta.final))
        delta.text = delta.text.upper()

    assert shown(on_delta, "a", "b", run=run, replay=True) == "AB"
    assert seen == [("a", True, False), ("b", True, False), ("", False, True)]
