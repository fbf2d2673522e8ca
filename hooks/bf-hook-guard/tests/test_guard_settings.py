"""What stands in `[plugins.guard]` is checked when it is loaded, and every error names its field."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bf_hook_guard import create
from bf_hook_guard.__main__ import main

from bf_plugin import ConfigurationError, PluginContext

Contexts = Callable[..., PluginContext]


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"name": "x", **fields}]}


def limit(**fields: Any) -> dict[str, Any]:
    return {"limits": [fields]}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"rule": []}, "rule: Extra inputs are not permitted"),
        (rule(), "rules.0: give one of pattern, terms and pii, not none of them"),
        (rule(pattern="a", terms=["b"]), "rules.0: give one of pattern, terms and pii, not pattern and terms"),
        (
            rule(pattern="a", replace="b", stop=True),
            "rules.0: give one of replace, mask and stop, not replace and stop",
        ),
        (rule(pattern="a", reason="because"), "rules.0: a reason is given for a stop: add stop = true"),
        (rule(pattern="a", mask="**"), "rules.0.mask: String should have at most 1 character"),
        (rule(terms=["a", " "]), "rules.0.terms: a term must not be empty"),
        (rule(pii=["email", "name"]), "rules.0.pii.1: Input should be 'email', 'phone', 'card' or 'iban'"),
        (rule(pattern="a", apps=[]), "rules.0.apps: List should have at least 1 item"),
        ({"rules": [{"name": "no spaces", "pattern": "a"}]}, "rules.0.name: String should match pattern"),
        ({"rules": [{"name": "x", "pattern": "a"}] * 2}, "rules: there are two rules of the name x"),
        (rule(pattern="a("), "rules.0.pattern (rule x) is no regular expression: missing )"),
        (rule(pattern="a*b"), "rules.0.pattern (rule x) has no longest match"),
        (rule(pattern=r"(a)\1"), "rules.0.pattern (rule x) refers to a group of its own"),
        (rule(pattern="a?"), "rules.0.pattern (rule x) matches the empty text"),
        (rule(pattern="a{1001}"), "rules.0.pattern (rule x) may have to look at 1001 characters"),
        (rule(pattern="(?:a{1,9}|b){1,9}"), "rules.0.pattern (rule x) repeats a repeat"),
        (rule(pattern=r"(?a)\w"), "rules.0.pattern (rule x) has the flag a"),
        (rule(pattern="(?i:a)b"), "rules.0.pattern (rule x) has the flag i for a part of it"),
        (rule(pattern="(?<=a(?!b))c"), "rules.0.pattern (rule x) has a lookbehind that itself looks around"),
        (rule(pattern="(" * 2000 + "a" + ")" * 2000), "rules.0.pattern (rule x) is nested too deeply"),
        (rule(terms=["a", "b" * 201]), "rules.0.terms.1: String should have at most 200 characters"),
        (rule(terms=["a " * 100]), "rules.0 (rule x) has too many parts"),
        (rule(pattern="a", callback="no_such_module.function"), "rules.0.callback (rule x): No module named"),
        (rule(pattern="a", callback="os.path"), "rules.0.callback (rule x): os.path is no plain function"),
        (rule(pattern="a", callback="asyncio.sleep"), "rules.0.callback (rule x): asyncio.sleep is no plain function"),
        (limit(period="day"), "limits.0: give at least one of runs, tokens and cost"),
        (limit(period="year", runs=1), "limits.0.period: Input should be 'minute', 'hour', 'day', 'week' or 'month'"),
        (limit(period="day", runs=-1), "limits.0.runs: Input should be greater than or equal to 0"),
        (limit(period="day", cost=1.5), "section: limits.cost needs prices"),
        ({"prices": {"big": {"prompt": 1}}}, "prices.big.completion: Field required"),
        ({"in_thread": "perhaps"}, "in_thread: Input should be a valid boolean"),
    ],
)
def test_what_is_wrong_is_named(plugin_context: Contexts, section: dict[str, Any], said: str) -> None:
    """With the table, the field, what is wrong with it and, for patterns, the rule."""
    with pytest.raises(ConfigurationError) as caught:
        create(plugin_context(section=section))
    assert str(caught.value).startswith(f"[plugins.guard] {said}")


def test_several_problems_are_told_together(plugin_context: Contexts) -> None:
    """So that an operator corrects them at once; what was written is not repeated, it may be confidential."""
    with pytest.raises(ConfigurationError) as caught:
        create(plugin_context(section={"rules": [{"name": "x", "terms": "hush"}], "limits": [{"runs": 1}]}))
    assert "rules.0.terms: " in str(caught.value)
    assert "limits.0.period: " in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_callback_whose_module_fails(
    plugin_context: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, the rule is named."""
    (tmp_path / "guard_broken_callback.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"rules.0.callback \(rule x\): no licence"):
        create(plugin_context(section=rule(pattern="a", callback="guard_broken_callback.ask")))


def test_without_rules_there_is_no_on_delta(plugin_context: Contexts) -> None:
    """So deltas cost nothing; nor are starts looked at without limits."""
    plugin = create(plugin_context())
    assert not hasattr(plugin, "on_delta")


# the README, and trying rules from the command line ------------------------------------------------------------------

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


Try = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Try:
    """Return a function that tries a file on a text: exit code, output and errors."""

    def call(file: Path, text: str, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code = main([str(file), *options])
        return (code, *capsys.readouterr())

    return call


def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    """The file that it writes, the text that it pipes in, and the output that it shows."""
    file = tmp_path / "apps.toml"
    file.write_text(README.partition("<<'END'\n")[2].partition("END\n")[0])
    text = README.partition('echo "')[2].partition('"')[0]
    shown = README.partition("would see:\n\n```\n")[2].partition("```")[0]
    command = [sys.executable, "-X", "utf8", "-m", "bf_hook_guard", str(file)]
    done = subprocess.run(command, input=f"{text}\n", capture_output=True, encoding="utf-8", check=True)
    assert done.stdout + done.stderr == shown


def test_every_table_of_the_readme_loads(plugin_context: Contexts) -> None:
    """What stands there works as it is."""
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    tables = re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for table in tables:
        create(plugin_context(section=toml.loads(table)["plugins"]["guard"]))
    assert len(tables) == 2


def test_trying_rules_of_an_app(tried: Try, tmp_path: Path) -> None:
    """Its own rules take part, and the exit code tells whether the run would have been stopped."""
    file = tmp_path / "apps.toml"
    file.write_text('[[plugins.guard.rules]]\nname = "x"\npattern = "hush"\nstop = true\napps = ["portal"]\n')
    code, out, err = tried(file, "One.\nHush!\nTwo.\n", "--app", "portal")
    assert (code, out) == (1, "One.\n")
    assert "found: x 1; held back: 4 characters at most; the run ends here: rule x" in err
    assert tried(file, "Hush!") == (2, "", "no rule is for this app\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[plugins.other]\n", "there is no table [plugins.guard]"),
        ("[plugins.guard\n", "Expected"),
        ('[plugins.guard]\nrules = "x"\n', "[plugins.guard] rules: Input should be a valid list"),
        (None, "No such file"),
    ],
)
def test_trying_a_file_that_cannot_work(tried: Try, tmp_path: Path, content: str | None, said: str) -> None:
    """The file and what is wrong with it are named, in one line."""
    file = tmp_path / "apps.toml"
    if content is not None:
        file.write_text(content)
    code, out, err = tried(file, "text")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert str(file) in err
    assert said in err
