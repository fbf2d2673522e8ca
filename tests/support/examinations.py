"""What `bf-plugin doctor` said."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result
from cryptography.fernet import Fernet

from bf_plugin.cli import main
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY

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


Importable = Callable[[Any], str]


def installed(what: str) -> list[str]:
    """Return the names of the engines or messengers of this environment, the core's among them."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=f"bf_plugin.{what}")})
