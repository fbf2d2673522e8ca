"""`bf-plugin doctor`: what is wrong is found, said with what to do about it, and nothing is touched."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pwd
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet

from bf_plugin import Settings, mount
from bf_plugin.cli import main
from bf_plugin.doctor import asking
from bf_plugin.doctor.gateway import ACTION
from bf_plugin.journal import open_journal
from bf_plugin.settings import load_settings
from bf_plugin.testing.deployment import APP_KEY, CHANNEL, PROVIDER_KEY, Deployment
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.process import Site
from bf_plugin.testing.provider import ProviderSimulator

pytestmark = pytest.mark.usefixtures("alone")

OTHER_KEY = "BFAPI_nobody-has-this"
BAD_PROVIDER_KEY = "sk-bad-0123456789"
SECRET = Fernet.generate_key().decode()


class Report:
    """What the command said."""

    def __init__(self, result: Result) -> None:
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.output = result.output
        self.exit_code = result.exit_code
        self.content = json.JSONDecoder().raw_decode(result.output[result.output.index("{\n") :])[0]

    def of(self, part: str, *statuses: str) -> list[str]:
        """Return the texts of a part, each with its advice."""
        return [
            f"{finding['text']} -> {finding['advice']}" if finding["advice"] else finding["text"]
            for finding in self.content["findings"]
            if finding["part"] == part and (not statuses or finding["status"] in statuses)
        ]

    @property
    def failures(self) -> list[tuple[str, str]]:
        """The part and the text of what failed, each with its advice; the exit code tells whether anything did."""
        parts = ("settings", "plugins", "database", "provider", "messaging")
        found = [(part, text) for part in parts for text in self.of(part, "failed")]
        assert self.exit_code == (1 if found else 0)
        assert self.content["ok"] is not found or not found
        return found

    def failure(self, part: str) -> str:
        """Return the only failure, which is this part's."""
        assert [where for where, _ in self.failures] == [part], self.output
        return self.failures[0][1]


def examine(*arguments: str, **environ: str) -> Report:
    """Run the command in this process, and see that it tells no secret."""
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments], env=environ)
    for secret in (APP_KEY, OTHER_KEY, PROVIDER_KEY, BAD_PROVIDER_KEY, SECRET, "hunter2"):
        assert secret not in result.output
    return Report(result)


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(keys=[PROVIDER_KEY], models=["gpt-test", "gpt-other"]) as running:
        yield running


@pytest.fixture
def gateway() -> RecordingGateway:
    return RecordingGateway(keys=[APP_KEY])


@pytest.fixture
def messaging(gateway: RecordingGateway) -> Iterator[str]:
    """The URL of the gateway's messaging."""
    with GatewayServer(gateway) as server:
        yield server.url


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """A function that makes an app importable, and returns what to give as `--app`."""

    def make(app: Any) -> str:
        name = f"host_{secrets.token_hex(6)}"
        module = types.ModuleType(name)
        module.application = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        return f"{name}:application"

    return make


Importable = Callable[[Any], str]


# As a whole


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


# Settings


def installed(what: str) -> list[str]:
    """Return the names of the engines or messengers of this environment, the core's among them."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=f"bf_plugin.{what}")})


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


# Plugins


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


# SQLite


@pytest.fixture
def journal(deploy: Callable[..., Deployment], tmp_path: Path) -> dict[str, str]:
    """The environment of a deployment with a journal that something is stored in."""
    deployed = deploy(secret_key=SECRET)
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))
    deployed.application.close()
    return {"BF_DATABASE_URL": f"sqlite:///{tmp_path / 'journal.db'}", "BF_SECRET_KEY": SECRET}


def test_the_journal_opens(journal: dict[str, str], tmp_path: Path) -> None:
    """It can be written, has our tables, and the key opens it; afterwards every file is as it was."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    report = examine(**journal)

    assert report.failures == []
    assert len(report.of("database", "ok")) == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_another_secret_key(journal: dict[str, str]) -> None:
    """A key that opens nothing of what is stored is found, before a conversation is lost."""
    report = examine(**{**journal, "BF_SECRET_KEY": Fernet.generate_key().decode()})

    assert "add the old one behind the new one in BF_SECRET_KEY" in report.failure("database")


def test_the_old_key_was_taken_away_too_early(journal: dict[str, str], tmp_path: Path) -> None:
    """What is new opens with the new key; what is old does not any more."""
    new = Fernet.generate_key().decode()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        (token,) = connection.execute("SELECT item_sealed FROM bf_items ORDER BY id DESC LIMIT 1").fetchone()
        again = Fernet(new).encrypt(Fernet(SECRET).decrypt(token))
        connection.execute("UPDATE bf_items SET item_sealed = ? WHERE id = (SELECT max(id) FROM bf_items)", [again])
        connection.execute("DELETE FROM bf_runs")
    connection.close()

    assert examine(**{**journal, "BF_SECRET_KEY": f"{new},{SECRET}"}).failures == []
    assert "another secret key" in examine(**{**journal, "BF_SECRET_KEY": new}).failure("database")


def test_no_secret_key(journal: dict[str, str], tmp_path: Path) -> None:
    """A value that is no Fernet key is said to be none; the tables are looked at all the same."""
    report = examine(**{**journal, "BF_SECRET_KEY": "hunter2"})

    assert "BF_SECRET_KEY: not a Fernet key" in report.failure("database")
    assert any("its tables have version" in text for text in report.of("database", "ok"))


def test_the_key_file_is_gone(tmp_path: Path) -> None:
    """The next start would make another key and lose all threads; the doctor makes none."""
    open_journal(f"sqlite:///{tmp_path / 'bf.db'}").close()
    (tmp_path / "bf.db.key").unlink()

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'bf.db'}")

    assert "bring it back from a backup" in report.failure("database")
    assert not (tmp_path / "bf.db.key").exists()


def test_everybody_can_read_the_key(tmp_path: Path) -> None:
    """A key that is not private is found, with the command that makes it so."""
    open_journal(f"sqlite:///{tmp_path / 'bf.db'}").close()
    (tmp_path / "bf.db.key").chmod(0o644)

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'bf.db'}")

    assert report.failure("database").endswith(f"-> chmod 600 {tmp_path / 'bf.db.key'}")
    assert report.of("database", "skipped") == ["whether the secret key opens what is stored: nothing is"]


@pytest.mark.parametrize(("version", "said"), [(99, "a newer release made them"), (0, "the change log says")])
def test_tables_of_another_release(journal: dict[str, str], tmp_path: Path, version: int, said: str) -> None:
    """Older or newer, the message says what to do."""
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("UPDATE bf_schema SET version = ?", [version])
    connection.close()

    assert said in examine(**journal).failure("database")


def test_another_programs_file(tmp_path: Path) -> None:
    """What is no database is said to be none."""
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100, encoding="utf-8")

    report = examine(BF_DATABASE_URL=f"sqlite:///{tmp_path / 'letter.txt'}", BF_SECRET_KEY=SECRET)

    assert "another program's file lies there: correct BF_DATABASE_URL" in report.failure("database")


def test_a_folder_that_cannot_be_made() -> None:
    """Where no file can be made there will be no journal."""
    assert "/proc cannot be written by this user" in examine(BF_DATABASE_URL="sqlite:////proc/no/bf.db").failure(
        "database"
    )


def test_a_folder_without_file_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network filesystem: it is said where to go."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("bf_plugin.dispatch.owner.fcntl.lockf", refuse)

    assert "does not take file locks (No locks available): put BF_DATABASE_URL on a local disk" in examine().failure(
        "database"
    )


def test_somebody_else_holds_the_database(
    journal: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that keeps a write transaction open is waited for no longer than the doctor's patience."""
    monkeypatch.setattr("bf_plugin.journal.survey.PATIENCE", 0.05)
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    report = examine(**journal)

    other.close()
    assert "end that program" in report.failure("database")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and become somebody else")
def test_another_users_files() -> None:
    """Whoever may not use a file is told whose it is; the superuser is told that his access says nothing."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, which nobody else may enter
        folder, environ = Path(name), {"BF_DATABASE_URL": f"sqlite:///{name}/bf.db"}
        folder.chmod(0o755)
        open_journal(environ["BF_DATABASE_URL"]).close()
        (folder / "bf.db.d").mkdir(mode=0o700)
        theirs = subprocess.run(
            [sys.executable, "-c", _AS_SOMEBODY_ELSE, str(nobody.pw_uid)],
            env={**os.environ, **environ},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        os.chown(folder / "bf.db", nobody.pw_uid, nobody.pw_gid)
        mine = examine(**environ)

    assert theirs.returncode == 1, theirs.stderr
    for file in ("bf.db", "bf.db.key", "bf.db.d"):
        assert f"FAIL     database   {folder / file} cannot be used by this user" in theirs.stdout
    assert "(it is root's)" in theirs.stdout
    assert f"{folder} cannot be written by this user: Permission denied" in theirs.stdout
    assert "readonly database; make the file and its folder writable" in theirs.stdout
    assert mine.failures == []
    assert any("run this as nobody" in text for text in mine.of("database", "skipped"))


_AS_SOMEBODY_ELSE = """
import os, sys
from bf_plugin.cli import main
main(["plugins"], standalone_mode=False)  # so that everything is loaded: they may not enter our folders
from bf_plugin.cli.doctor import doctor
os.setuid(int(sys.argv.pop()))
doctor([])
"""


# Postgres


def postgres(url: str, **environ: str) -> Report:
    return examine(**{"BF_DATABASE_URL": url, "BF_SECRET_KEY": SECRET, **environ})


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        query = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'public' OR schemaname LIKE 'bf_%'"
        return {f"{schema}.{name}" for schema, name in connection.execute(query)}


def test_an_empty_postgres_database(postgres_url: str) -> None:
    """Everything that the first start does is tried, and undone: nothing is left behind."""
    report = postgres(postgres_url)

    assert report.failures == []
    said = " ".join(report.of("database", "ok"))
    for text in ("has no journal yet", "queue of runs", "signals between processes arrive", "a heartbeat every 1 s"):
        assert text in said
    assert tables(postgres_url) == set()


def test_a_used_postgres_database(postgres_url: str, deploy: Callable[..., Deployment]) -> None:
    """Beside processes that use it, whose tables and jobs stay as they are; a wrong key is found."""
    deployed = deploy(database_url=postgres_url, secret_key=SECRET)
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))
    before = tables(postgres_url)

    report = postgres(postgres_url)
    wrong = postgres(postgres_url, BF_SECRET_KEY=Fernet.generate_key().decode())

    assert report.failures == []
    assert "the secret key opens what is stored" in report.of("database", "ok")
    assert "another secret key" in wrong.failure("database")
    assert tables(postgres_url) == before


def test_postgres_cannot_be_used(postgres_url: str) -> None:
    """No secret key, no server, no database: each with its remedy."""
    assert "BF_SECRET_KEY: needed with postgresql://" in postgres(postgres_url, BF_SECRET_KEY="").failure("database")
    refused = postgres("postgresql://someone:hunter2@127.0.0.1:1/db")
    assert "see that the server runs" in refused.failure("database")
    missing = postgres(postgres_url.replace("/bf_", "/no_"))
    assert "create it, or correct BF_DATABASE_URL" in missing.failure("database")


def test_postgres_tables_of_another_release(postgres_url: str) -> None:
    """A newer release's tables are found."""
    open_journal(postgres_url, [SECRET]).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE bf_schema SET version = 99")

    assert "a newer release made them" in postgres(postgres_url).failure("database")


def test_a_postgres_user_without_rights(postgres_url: str) -> None:
    """Who may not make tables, or a schema for the queue, is told what to grant."""
    name = f"user_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        connection.execute(b"REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        theirs = postgres_url.replace("postgres:@", f"{name}:@")
        assert theirs != postgres_url

        assert "grant its user the right to create and write tables" in postgres(theirs).failure("database")
        connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}".encode())
        assert "grant CREATE on the database" in postgres(theirs).failure("database")
        connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {name}".encode())
        assert postgres(theirs).failures == []


def test_the_extra_is_missing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what to install."""
    for module in [name for name in sys.modules if name.startswith("bf_plugin.dispatch.jobs")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    monkeypatch.delattr("bf_plugin.dispatch.jobs", raising=False)

    assert "pip install 'bf_plugin[postgres]'" in postgres(postgres_url).failure("database")


def test_signals_get_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pool of transactions, where who listens is not who waits."""
    monkeypatch.setattr("bf_plugin.journal.postgres.CHANNEL", "another_session")
    monkeypatch.setattr("bf_plugin.journal.survey.PATIENCE", 0.2)

    assert "let PgBouncer pool sessions" in postgres(postgres_url).failure("database")


# Provider


def asked(provider: ProviderSimulator, **environ: str) -> Report:
    return examine(**{"BF_OPENAI_BASE_URL": provider.base_url, "BF_OPENAI_API_KEY": PROVIDER_KEY, **environ})


def test_keys_and_models_are_known(provider: ProviderSimulator, tmp_path: Path) -> None:
    """Each key once, each model with the settings that name it."""
    (tmp_path / "apps.toml").write_text(
        f"[apps.a]\napi_keys = ['one']\n[apps.a.assistants.asst_1]\nmodel = 'gpt-other'\n"
        f"[apps.b]\napi_keys = ['two']\nopenai_api_key = '{BAD_PROVIDER_KEY}'\nmodel = 'gpt-test'\n",
        encoding="utf-8",
    )

    report = asked(provider, BF_APPS_FILE=str(tmp_path / "apps.toml"), BF_MODEL="gpt-test")

    assert report.of("provider", "ok")[1:] == [
        "BF_OPENAI_API_KEY is accepted",
        "model gpt-other (apps.a.assistants.asst_1.model) is known",
        "model gpt-test (BF_MODEL) is known",
    ]
    assert "apps.b.openai_api_key is refused (401) -> correct apps.b.openai_api_key" in report.failure("provider")
    assert not [request for request in provider.requests if (request.body or {}).get("model")]


def test_a_model_nobody_knows(provider: ProviderSimulator) -> None:
    """It is named with the setting it stands in, and with what it may have been meant to be."""
    report = asked(provider, BF_MODEL="gpt-tset")

    assert (
        "model gpt-tset (BF_MODEL) is not known, or not to this key -> correct BF_MODEL; known are gpt-test"
        in report.failure("provider")
    )


def test_a_key_is_refused(provider: ProviderSimulator) -> None:
    """The provider quotes the key in its refusal; the doctor does not."""
    assert "BF_OPENAI_API_KEY is refused (401)" in asked(provider, BF_OPENAI_API_KEY=BAD_PROVIDER_KEY).failure(
        "provider"
    )


def test_a_restricted_key(provider: ProviderSimulator) -> None:
    """A key that may not read the list of models is no bad key."""
    provider.fault(
        "status", on="models", status=403, message="Insufficient permissions. Missing scopes: api.model.read."
    )

    report = asked(provider, BF_MODEL="gpt-test")

    assert report.failures == []
    assert report.of("provider", "skipped") == [
        "BF_OPENAI_API_KEY: whether models are known: the key may not read the list of models"
    ]


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_a_list_of_models(provider: ProviderSimulator, status: int) -> None:
    """What cannot be told is no failure; a bad key is found out elsewhere."""
    provider.fault("status", on="models", status=status)

    report = asked(provider, BF_MODEL="gpt-test")

    assert report.failures == []
    assert report.of("provider", "skipped") == [
        f"BF_OPENAI_API_KEY: whether models are known: GET /models answers {status}"
    ]
    assert "is refused" in asked(provider, BF_OPENAI_API_KEY=BAD_PROVIDER_KEY).failure("provider")


def test_a_server_without_responses(provider: ProviderSimulator) -> None:
    """A base URL without its path, or a server that only has chat completions."""
    report = asked(provider, BF_OPENAI_BASE_URL=provider.base_url.removesuffix("/v1"))

    assert "has no /responses (404) -> correct BF_OPENAI_BASE_URL: its path is often /v1" in report.failure("provider")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"name": "status", "status": 503}, "it answers 503"),
        ({"name": "status", "status": 307}, "it redirects (307)"),
        ({"name": "status", "status": 429}, "is limited now (429) -> wait"),
        ({"name": "drop"}, "no connection"),
        ({"name": "hang"}, "no answer within"),
    ],
)
def test_a_provider_that_is_not_well(
    provider: ProviderSimulator, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], said: str
) -> None:
    """What is wrong with it is said, with where to look."""
    monkeypatch.setattr(asking, "TIMEOUT", 0.5)
    provider.fault(fault.pop("name"), on="models", **fault)

    text = asked(provider).failure("provider")

    assert said in text
    assert " -> " in text


def test_a_provider_that_cannot_be_reached() -> None:
    """No server, no URL, no key that can be sent: each by what is wrong."""
    environ = {"BF_OPENAI_API_KEY": PROVIDER_KEY}
    assert "no connection" in examine(BF_OPENAI_BASE_URL="http://127.0.0.1:1", **environ).failure("provider")
    assert "this is not a URL" in examine(BF_OPENAI_BASE_URL="localhost", **environ).failure("provider")
    strange = examine(BF_OPENAI_BASE_URL="http://127.0.0.1:1", BF_OPENAI_API_KEY="sk-schlüssel-…")
    assert "characters that cannot be sent" in strange.failure("provider")


def test_a_key_is_not_sent_on(provider: ProviderSimulator) -> None:
    """A server that redirects gets the key, the one it leads to does not."""

    def elsewhere(environ: Any, start_response: Any) -> list[bytes]:
        start_response("307 Temporary Redirect", [("Location", provider.base_url + environ["PATH_INFO"])])
        return [b""]

    with GatewayServer(RecordingGateway(), app=elsewhere) as server:
        report = asked(provider, BF_OPENAI_BASE_URL=server.url)

    assert "it redirects (307)" in report.failure("provider")
    assert provider.requests == []


def test_callers_bring_their_keys(provider: ProviderSimulator) -> None:
    """Without a key of the operator's only the server is looked at."""
    report = asked(provider, BF_OPENAI_API_KEY="", BF_MODEL="gpt-test")

    assert report.of("provider", "ok") == [f"{provider.base_url} answers"]
    assert report.of("provider", "skipped") == ["keys and models: no provider key is configured, callers bring theirs"]
    assert {request.key for request in provider.requests} == {None}


def test_passwords_of_the_netrc_are_not_sent(
    provider: ProviderSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`requests` would put one in place of the key."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password hunter2\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert asked(provider).failures == []
    assert {request.key for request in provider.requests} == {PROVIDER_KEY}


# Messaging


class Credulous(RecordingGateway):
    """A gateway that accepts any key."""

    def accepts(self, key: str) -> bool:
        return True


class Without(RecordingGateway):
    """A gateway whose question about keys is answered in another way."""

    def __init__(self, status: int) -> None:
        super().__init__(keys=[APP_KEY])
        self._status = status

    def route(self, method: str, path: str, environ: Any) -> Any:
        if path == "/message/channels":
            return self._status, "text/html", [b"<h1>Well</h1>"]
        return super().route(method, path, environ)


def test_the_host_app_is_asked(gateway: RecordingGateway, importable: Importable) -> None:
    """In zero configuration the app itself says which keys are valid, and takes the messages."""
    app = importable(gateway)

    plain = examine("--app", app)
    known = examine("--app", app, "--app-key", APP_KEY, "--channel", CHANNEL)
    unknown = examine("--app", app, "--app-key", OTHER_KEY)

    assert plain.failures == []
    assert plain.of("messaging", "ok") == ["the host app refuses a made-up key"]
    assert known.of("messaging") == [
        "the host app refuses a made-up key",
        "the host app knows the key given",
        f"the host app took a test message for channel {CHANNEL} with the key given",
    ]
    assert "does not know the key given (401) -> correct it" in unknown.failure("messaging")
    assert [attempt.channels for attempt in gateway.attempts] == [[CHANNEL]]


def test_a_gateway_that_accepts_anything(importable: Importable) -> None:
    """Zero configuration is off there, which every start would say; with keys configured it is worth a word."""
    app = importable(Credulous())

    asked_for_keys = examine("--app", app, "--app-key", APP_KEY, "--channel", CHANNEL)
    configured = examine("--app", app, "--channel", CHANNEL, BF_API_KEYS=APP_KEY)

    said = asked_for_keys.failure("messaging")
    assert "the host app accepts any key, a made-up one too -> set BF_API_KEYS or BF_APPS_FILE" in said
    assert configured.failures == []
    assert "it accepts any, a made-up one too" in configured.of("messaging", "skipped")[0]
    assert "took a test message" in configured.of("messaging", "ok")[0]


@pytest.mark.parametrize("status", [200, 302, 400, 404, 503])
def test_a_gateway_that_does_not_tell(importable: Importable, status: int) -> None:
    """Where it is asked for keys that is a failure; else only one if it is not well."""
    app = importable(Without(status))

    assert f"answered {status}" in examine("--app", app).failure("messaging")
    configured = examine("--app", app, "--channel", CHANNEL, BF_API_KEYS=APP_KEY)
    assert [part for part, _ in configured.failures] == (["messaging"] if status == 503 else [])
    assert "took a test message" in configured.of("messaging", "ok")[-1]


def test_a_host_app_that_raises(importable: Importable) -> None:
    """It is said where, and with what; what the error quotes is not."""

    def broken(environ: Any, start_response: Any) -> Any:
        raise ValueError(f"{environ['wsgi.input'].read()!r}")

    said = examine("--app", importable(broken), "--app-key", APP_KEY).failure("messaging")

    assert "the host app raised ValueError in broken (" in said
    assert "--url" in said


def test_the_address_of_the_gateway(gateway: RecordingGateway, importable: Importable) -> None:
    """A host app sees the address that `--url` gives, as with a request from there."""
    seen: list[tuple[str, ...]] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(tuple(environ[name] for name in ("wsgi.url_scheme", "HTTP_HOST", "SCRIPT_NAME", "SERVER_PORT")))
        return gateway(environ, start_response)

    examine("--app", importable(app), "--url", "https://gateway.example.com/portal/")
    examine("--app", importable(app), "--url", "http://gateway.example.com:8080")

    assert seen == [
        ("https", "gateway.example.com", "/portal", "443"),
        ("http", "gateway.example.com:8080", "", "8080"),
    ]
    assert CliRunner().invoke(main, ["doctor", "--url", "gateway"]).exit_code == 2


def test_a_remote_gateway_is_asked(messaging: str) -> None:
    """With `BF_MESSAGING_URL` and no keys the gateway there is asked, over HTTP."""
    report = examine("--app-key", APP_KEY, "--channel", CHANNEL, BF_MESSAGING_URL=messaging)

    assert report.of("messaging") == [
        f"{messaging} refuses a made-up key",
        f"{messaging} knows the key given",
        f"{messaging} took a test message for channel {CHANNEL} with the key given",
    ]


def test_every_key_and_every_app(messaging: str, gateway: RecordingGateway, tmp_path: Path) -> None:
    """Each key is asked about where its messages go; each app sends one test message, with its first key."""
    (tmp_path / "apps.toml").write_text(
        f"[apps.portal]\napi_keys = ['{APP_KEY}', '{OTHER_KEY}']\nmessaging_url = '{messaging}'\n"
        "[apps.down]\napi_keys = ['a-third']\nmessaging_url = 'http://someone:hunter2@127.0.0.1:1/x?y=hunter2'\n",
        encoding="utf-8",
    )

    report = examine("--channel", CHANNEL, BF_APPS_FILE=str(tmp_path / "apps.toml"))

    assert report.of("messaging", "ok") == [
        f"{messaging} refuses a made-up key",
        f"{messaging} knows key 1 of apps.portal",
        f"{messaging} took a test message for channel {CHANNEL} with key 1 of apps.portal",
    ]
    failures = [text for _, text in report.failures]
    assert f"{messaging} does not know key 2 of apps.portal (401)" in failures[0]
    assert "http://127.0.0.1:1/x, asked about a made-up key: the gateway gave no answer" in failures[1]
    assert "did not take a test message with key 1 of apps.down: the gateway cannot be reached" in failures[2]
    assert len(failures) == 3
    assert len(gateway.attempts) == 1


def test_a_key_that_is_not_configured(messaging: str) -> None:
    """Where keys are configured, the key to test with is one of them."""
    settings = {"BF_API_KEYS": f"first-key,{APP_KEY}", "BF_MESSAGING_URL": messaging}

    assert "none of those configured" in examine("--app-key", OTHER_KEY, **settings).failure("messaging")
    assert examine("--app-key", APP_KEY, **settings).of("messaging", "ok")[1:] == [
        f"{messaging} knows key 2 of BF_API_KEYS"
    ]


def test_a_test_message_that_is_refused(messaging: str, gateway: RecordingGateway) -> None:
    """The gateway's answer is told, with what it means."""
    gateway.fault("status", 422)
    refused = examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging)
    gateway.fault("status", 503)
    busy = examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging)

    assert "with key 1 of BF_API_KEYS: the gateway answered 422 -> the key is not valid" in refused.failure("messaging")
    assert "the gateway answered 503 -> see that the gateway runs" in busy.failure("messaging")


def test_the_test_message_needs_a_key(gateway: RecordingGateway, importable: Importable) -> None:
    """Where no key is configured, and none was given, it is said that one is needed."""
    report = examine("--app", importable(gateway), "--channel", CHANNEL)

    assert "a test message needs an app key: give one with --app-key" in report.of("messaging", "skipped")
    assert gateway.attempts == []


def test_the_key_can_be_typed(gateway: RecordingGateway, importable: Importable) -> None:
    """`--app-key` without a value asks for it, and does not show it."""
    arguments = ["doctor", "--app", importable(gateway), "--app-key"]

    result = CliRunner().invoke(main, arguments, input=f"{APP_KEY}\n")

    assert "the host app knows the key given" in result.output
    assert APP_KEY not in result.output


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_the_test_message_is_harmless(messaging: str, gateway: RecordingGateway, style: str) -> None:
    """One named action that is nobody's, in the operator's style, without keys a page would run."""
    examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging, BF_EVENT_STYLE=style)

    (action,) = gateway.actions()
    assert (action["action"], action["name"]) == ("namedAction", ACTION)
    flat, nested = action["options"], action["options"].get("data")
    assert set(flat) - {"data"} == ({"type", "content"} if style != "data" else set())
    assert set(nested or {}) == ({"type", "content"} if style != "options" else set())
    assert (flat if style == "options" else nested)["type"] == "test"


def test_a_scheme_without_a_messenger() -> None:
    """Those that are installed are named."""
    report = examine(BF_API_KEYS=APP_KEY, BF_MESSAGING_URL="pigeon://loft")

    said = report.failure("messaging")
    known = ", ".join(f"{scheme}://" for scheme in installed("messengers"))
    assert said == f"pigeon://loft: no messenger is installed for its scheme -> installed are: {known}"


# The app


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
