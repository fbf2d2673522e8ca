"""Whether the journal's tables fit this release, can be written, and can be read with the secret key."""

from __future__ import annotations

from collections.abc import Sequence

from bf_plugin.doctor.finding import Finding, failed, ok, skipped
from bf_plugin.errors import BFError, ConfigurationError
from bf_plugin.journal.migrations import VERSION
from bf_plugin.journal.store import Database
from bf_plugin.journal.survey import Survey
from bf_plugin.journal.vault import Vault


def check_tables(database: Database, keys: Sequence[str]) -> tuple[float | None, list[Finding]]:
    """Return the seconds a round trip takes, None where the database cannot be used, and what was found.

    Without `keys` what is stored is not looked at.
    """
    found: list[Finding] = []
    trip = None
    try:
        with Survey(database) as survey:
            trip = _look(survey, str(database), _vault(keys, found), found)
    except BFError as error:
        found.append(failed("database", str(error)))
    return trip, found


def _look(survey: Survey, database: str, vault: Vault | None, found: list[Finding]) -> float:
    version = survey.prepare()
    trip = survey.round_trip()
    if version is None:
        found.append(ok("database", f"{database} has no journal yet: the first start makes it, and may"))
    elif version == VERSION:
        found.append(ok("database", f"{database} can be written; its tables have version {VERSION}, which fits"))
    else:
        change = f"its tables have version {version}, and the next start brings them to {VERSION}"
        found.append(ok("database", f"{database} can be written; {change}: make a backup first"))
    if vault is not None and version is not None:
        count = survey.open_sealed(vault)
        text = "the secret key opens what is stored"
        found.append(ok("database", text) if count else skipped("database", f"whether {text}: nothing is"))
    return trip


def _vault(keys: Sequence[str], found: list[Finding]) -> Vault | None:
    try:
        return Vault(keys) if keys else None
    except ConfigurationError as error:
        found.append(failed("database", str(error)))
        return None
