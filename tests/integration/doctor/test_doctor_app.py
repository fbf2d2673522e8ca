"""`bf-plugin doctor`: the app that the plugin is mounted in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bf_plugin import Settings, mount
from bf_plugin.settings import load_settings
from bf_plugin.testing.deployment import PROVIDER_KEY
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import ProviderSimulator
from examinations import OTHER_KEY, Importable, examine

pytestmark = pytest.mark.usefixtures("alone")


def test_a_mounted_app(gateway: RecordingGateway, importable: Importable, provider: ProviderSimulator) -> None:
    """Its settings, name and plugins are those it was mounted with; being looked at does not start it."""
    settings = load_settings(openai_base_url=provider.base_url, openai_api_key=PROVIDER_KEY, model="gpt-test")
    application = mount(gateway, name="portal", settings=settings)

    class Flask:
        wsgi_app = application

    for app in (application, Flask()):
        report = examine("--app", importable(app))
        assert report.failures == []
        assert report.of("settings") == ["those the app is mounted with; the environment sets nothing"]
        assert any("/bf_plugin/portal.db" in text for text in report.of("database", "skipped"))
        assert "model gpt-test (BF_MODEL) is known" in report.of("provider", "ok")
        assert report.of("messaging", "ok") == ["the host app refuses a made-up key"]
    assert application._service is None


def test_an_app_around_the_mounted_one(gateway: RecordingGateway, importable: Importable, tmp_path: Path) -> None:
    """Asking a host that has the plugin somewhere inside does not make this process drive runs."""
    application = mount(gateway, settings=Settings(database_url=f"sqlite:///{tmp_path / 'inner.db'}"))

    def around(environ: Any, start_response: Any) -> Any:
        return application(environ, start_response)

    report = examine("--app", importable(around))

    assert report.of("messaging", "ok") == ["the host app refuses a made-up key"]
    assert application._service is None
    assert application._waking == 0
    assert not (tmp_path / "inner.db").exists()


def test_what_an_app_prints_is_not_our_output(tmp_path: Path) -> None:
    """Standard output is one JSON object, whatever is said while the app is loaded, or called."""
    (tmp_path / "talks.py").write_text(
        "print('loading')\napplication = print  # says its arguments\n", encoding="utf-8"
    )
    program = Path(sys.executable).with_name("bf-plugin")

    result = subprocess.run([program, "doctor", "--json", "--app", "talks"], capture_output=True, text=True, timeout=60)

    assert json.loads(result.stdout)["ok"] is False
    assert result.stderr.startswith("loading\n")


def test_an_app_that_cannot_be_loaded(tmp_path: Path) -> None:
    """It is said why, and what does not depend on it is looked at."""
    (tmp_path / "raises.py").write_text(f"print('loading')\nraise ValueError('{OTHER_KEY}')\n", encoding="utf-8")
    (tmp_path / "mounts.py").write_text("from bf_plugin import mount\nmount(print)\n", encoding="utf-8")

    missing = examine("--app", "no_such_module:app")
    raises = examine("--app", "raises:app", BF_DATABASE_URL=f"sqlite:///{tmp_path / 'bf.db'}")
    mounts = examine("--app", "mounts:app", BF_RUN_TIMEOUT="soon")

    assert "--app no_such_module:app: No module named 'no_such_module' -> see that" in missing.failure("settings")
    assert missing.of("database") == ["where it lies depends on the app"]
    assert "--app raises:app: ValueError ->" in raises.failure("settings")
    assert len(raises.of("database")) == 2
    assert [text.partition(" -> ")[0] for _, text in mounts.failures] == [
        "--app mounts:app: BF_RUN_TIMEOUT: Input should be a valid number, unable to parse string as a number",
        "BF_RUN_TIMEOUT: Input should be a valid number, unable to parse string as a number",
    ]
