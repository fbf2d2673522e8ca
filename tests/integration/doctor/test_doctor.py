"""`bf-plugin doctor`: what is wrong is found, said with what to do about it, and nothing is touched."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bf_plugin.cli import main
from bf_plugin.testing.deployment import APP_KEY, CHANNEL, PROVIDER_KEY
from bf_plugin.testing.process import Site
from examinations import examine, installed

pytestmark = pytest.mark.usefixtures("alone")


def test_all_is_well(site: Site) -> None:
    """As typed: a deployment that has served is looked at by a process of its own, which changes nothing in it."""
    site.environ["BF_MODEL"] = "gpt-6-astra"
    site.provider.script("served")
    server = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    site.events(site.start(server.url))
    marks = sorted(path.name for path in (site.folder / "site.db.d").iterdir())
    site.gateway.clear()

    doctor = site.serve("bf-plugin", "doctor", "--channel", CHANNEL, BF_OPENAI_API_KEY=PROVIDER_KEY)

    assert doctor.wait() == 0, doctor.output
    said = doctor.output.splitlines()
    assert {line.split()[0] for line in said} == {"ok"}
    assert [line.split()[1] for line in said] == sorted(
        (line.split()[1] for line in said), key=["settings", "plugins", "database", "provider", "messaging"].index
    )
    for text in (
        "the secret key opens what is stored",
        "site.db can be written; its tables have version 1",
        "BF_OPENAI_API_KEY is accepted",
        "model gpt-6-astra (BF_MODEL) is known",
        "refuses a made-up key",
        "knows key 1 of BF_API_KEYS",
        f"took a test message for channel {CHANNEL}",
    ):
        assert text in doctor.output
    for secret in (APP_KEY, PROVIDER_KEY):
        assert secret not in doctor.output
    assert sorted(path.name for path in (site.folder / "site.db.d").iterdir()) == marks
    assert server.stop() == 0


def test_one_failure_does_not_hide_the_others(tmp_path: Path) -> None:
    """Each part is looked at whatever the others are like, and each line of advice stands under what it is about."""
    environ = {
        "BF_RUN_TIMEOUT": "soon",
        "BF_DATABASE_URL": "mysql://root:hunter2@db/x",
        "BF_OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "BF_OPENAI_API_KEY": PROVIDER_KEY,
        "BF_API_KEYS": APP_KEY,
        "BF_MESSAGING_URL": "http://127.0.0.1:1",
    }

    result = CliRunner().invoke(main, ["doctor"], env=environ)

    assert result.exit_code == 1
    said = [line.split()[:2] for line in result.output.splitlines()]
    assert said == [
        ["FAIL", "settings"],
        ["->", "correct"],
        ["ok", "plugins"],
        ["FAIL", "database"],
        ["FAIL", "provider"],
        ["->", "see"],
        ["FAIL", "messaging"],
        ["->", "see"],
        ["skipped", "messaging"],
    ]
    assert not any(secret in result.output for secret in ("soon", "hunter2", PROVIDER_KEY, APP_KEY))


def test_nothing_is_set() -> None:
    """A gateway with nothing set is fine; what cannot be told without it is skipped, and nothing is made."""
    report = examine()

    assert report.failures == []
    assert any("there is no journal yet" in text for text in report.of("database", "skipped"))
    assert report.of("provider") == ["keys and models: no provider key is configured, callers bring theirs"]
    assert "--app MODULE:ATTR" in report.of("messaging", "skipped")[0]
    assert list(Path.cwd().iterdir()) == []


def test_each_bad_setting_is_named(tmp_path: Path) -> None:
    """By name, never with its value; all of them; and the rest is looked at without them."""
    report = examine(
        BF_RUN_TIMEOUT="in-a-while", BF_STATE_MODE="somehow", BF_BODY_LIMIT="1", BF_PLUGINS_DISABLED="http"
    )

    assert [text.partition(":")[0] for _, text in report.failures] == [
        "BF_STATE_MODE",
        "BF_RUN_TIMEOUT",
        "BF_BODY_LIMIT",
    ]
    assert all("-> correct BF_" in text for _, text in report.failures)
    assert not any(value in report.output for value in ("in-a-while", "somehow"))
    messengers = report.of("plugins", "ok")[0].rpartition("messengers: ")[2].split(", ")
    assert "https" in messengers
    assert "http" not in messengers


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "BF_APPS_FILE: cannot read"),
        (b"\xff", "is not UTF-8"),
        (b"[apps.a", "is not TOML"),
        (b"[app.a]", "unknown tables app"),
        (b"[apps.a]\nmodel = 'x'", "BF_APPS_FILE: apps.a.api_keys: Field required"),
        (b"[apps.a]\napi_keys = ['x']\nmodle = 'y'", "BF_APPS_FILE: apps.a.modle: "),
        (b"[apps.a]\napi_keys = ['x']\n[apps.b]\napi_keys = ['x']", "apps.b: one of its keys is also another app's"),
        (
            b"[apps.a]\napi_keys = ['x']\n[apps.a.assistants.b]\ntools = [{type = 'telepathy'}]",
            "apps.a.assistants.b",
        ),
    ],
)
def test_an_apps_file_that_cannot_work(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Whatever is wrong with it, it is named, with the place in it."""
    file = tmp_path / "apps.toml"
    if content is not None:
        file.write_bytes(content)

    report = examine(BF_APPS_FILE=str(file))

    assert said in report.failure("settings")


def test_settings_that_cannot_be_had(tmp_path: Path) -> None:
    """Where nothing loads, the other parts say that they were not looked at."""
    report = examine(BF_SECRET_KEY_FILE=str(tmp_path / "nowhere"))

    assert "BF_SECRET_KEY_FILE: cannot read" in report.failure("settings")
    for part in ("plugins", "database", "provider", "messaging"):
        assert report.of(part) == ["cannot be looked at without the settings"]


def test_misspelled_settings_are_found() -> None:
    """A name that is nearly a setting's is one that is ignored; others are mentioned."""
    report = examine(BF_MESSAGING_ULR="http://127.0.0.1:1", BF_SOMETHING_ELSE="1")

    assert (
        report.failure("settings") == "BF_MESSAGING_ULR is no setting, and is ignored -> did you mean BF_MESSAGING_URL?"
    )
    assert report.of("settings", "skipped")[0].startswith("BF_SOMETHING_ELSE is no setting of bf_plugin")


def test_a_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the reason and the way round; a key it quotes is not told."""
    broken = importlib.metadata.EntryPoint(name="broken", value="broken_plugin:plugin", group="bf_plugin")
    installed = importlib.metadata.entry_points
    module = types.ModuleType("broken_plugin")

    def plugin(context: Any) -> None:
        raise ValueError(f"no account for {context.settings.openai_api_key.get_secret_value()}")

    module.plugin = plugin  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_plugin", module)
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **select: [*installed(**select), *([broken] if select.get("group") == "bf_plugin" else [])],
    )

    report = examine(BF_OPENAI_API_KEY=PROVIDER_KEY, BF_OPENAI_BASE_URL="http://127.0.0.1:1")

    (said,) = report.of("plugins")
    assert "plugin broken: its factory failed: ValueError: no account for [redacted]" in said
    assert "BF_PLUGINS_DISABLED=broken" in said


def test_a_required_plugin_is_not_there() -> None:
    """Without it nothing starts."""
    assert "plugin guardian is not loaded" in examine(BF_PLUGINS_REQUIRED="guardian").failure("plugins")


def test_no_engine_is_left() -> None:
    """Without an engine nobody can ask a model."""
    assert "no engine is loaded" in examine(BF_PLUGINS_DISABLED=",".join(installed("engines"))).failure("plugins")


def test_an_engine_that_is_not_there() -> None:
    """A choice that no distribution meets keeps the plugin from starting."""
    assert "BF_ENGINES: nobody is not installed" in examine(BF_ENGINES="openai=nobody").failure("plugins")
