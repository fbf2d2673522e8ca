"""FileMaker's error codes, as far as a tool call can meet them: what each means and who can do something about it.

After "FileMaker error codes" in Claris FileMaker Pro Help (help.claris.com/en/pro-help/content/error-codes.html). The
words are ours, for a model that knows no FileMaker. 812 is what a login gets over the limit of connections in practice
(github.com/proofsh/fmdapi/issues/18), 956 is its documented equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from bf_hook_filemaker.failures import Failure, Remedy


@dataclass(frozen=True, slots=True)
class Code:
    """One code: its meaning, what the model can do, what the operator can look at."""

    meaning: str
    remedy: Remedy
    advice: str = ""


_SCRIPT = "the script, or what it works on, needs to be mended in FileMaker"
_RIGHTS = "look at the privilege set of the connection's account"
_FILE = "is the file open on the server, is `database` spelled as there, and has the account the privilege fmrest?"
_LIMIT = "too many sessions: lower `concurrency`, or raise the server's limit of connections"

CODES: dict[int, Code] = {
    -1: Code("unknown error", Remedy.ASK),
    1: Code("the script was cancelled", Remedy.ASK),
    3: Code("the script uses a command that does not work on a server", Remedy.OPERATOR, _SCRIPT),
    4: Code("the script uses an unknown command", Remedy.OPERATOR, _SCRIPT),
    5: Code("the script uses a command wrongly", Remedy.OPERATOR, _SCRIPT),
    8: Code("the result is empty", Remedy.ARGUMENTS),
    9: Code("the account may not do that", Remedy.OPERATOR, _RIGHTS),
    10: Code("requested data is missing", Remedy.ARGUMENTS),
    100: Code("a file is missing", Remedy.OPERATOR, _SCRIPT),
    101: Code("the record is missing", Remedy.ARGUMENTS),
    102: Code("a field is missing", Remedy.OPERATOR, _SCRIPT),
    103: Code("a relationship is missing", Remedy.OPERATOR, _SCRIPT),
    104: Code(
        "the script is missing", Remedy.OPERATOR, "is `script` spelled as in the file, and may the account run it?"
    ),
    105: Code(
        "the layout is missing", Remedy.OPERATOR, "is `layout` spelled as in the file, and may the account see it?"
    ),
    106: Code("a table is missing", Remedy.OPERATOR, _SCRIPT),
    112: Code("a window is missing", Remedy.OPERATOR, _SCRIPT),
    200: Code("access to the record is denied", Remedy.OPERATOR, _RIGHTS),
    201: Code("a field cannot be changed", Remedy.OPERATOR, _RIGHTS),
    202: Code("access to a field is denied", Remedy.OPERATOR, _RIGHTS),
    205: Code("the account may not create records", Remedy.OPERATOR, _RIGHTS),
    210: Code("the account is inactive", Remedy.OPERATOR, "make the connection's account active"),
    211: Code(
        "the account's password has expired", Remedy.OPERATOR, "give the account a password that does not expire"
    ),
    212: Code("the account or its password is refused", Remedy.OPERATOR, "check `account`, `password` and `database`"),
    214: Code("there were too many attempts to log in", Remedy.OPERATOR, "wait, and check `account` and `password`"),
    300: Code("the file is locked or in use", Remedy.LATER),
    301: Code("the record is in use by somebody else", Remedy.LATER),
    302: Code("the table is in use by somebody else", Remedy.LATER),
    303: Code("the database schema is in use by somebody else", Remedy.LATER),
    304: Code("the layout is in use by somebody else", Remedy.LATER),
    306: Code("the record was changed meanwhile", Remedy.LATER),
    400: Code("the search criteria are empty", Remedy.ARGUMENTS),
    401: Code("no records match the request", Remedy.ARGUMENTS),
    500: Code("a date is not valid", Remedy.ARGUMENTS),
    501: Code("a time is not valid", Remedy.ARGUMENTS),
    502: Code("a number is not valid", Remedy.ARGUMENTS),
    503: Code("a value is not within its range", Remedy.ARGUMENTS),
    504: Code("a value is not unique", Remedy.ARGUMENTS),
    505: Code("a value is not one of those that exist", Remedy.ARGUMENTS),
    506: Code("a value is not one of the list", Remedy.ARGUMENTS),
    507: Code("a value does not pass its field's validation", Remedy.ARGUMENTS),
    508: Code("a search value is not valid", Remedy.ARGUMENTS),
    509: Code("a field needs a valid value", Remedy.ARGUMENTS),
    510: Code("a related value is empty or unavailable", Remedy.ARGUMENTS),
    511: Code("a value is longer than its field allows", Remedy.ARGUMENTS),
    512: Code("the record was changed by somebody else", Remedy.LATER),
    513: Code("a value does not fit into its field", Remedy.ARGUMENTS),
    802: Code("the database cannot be opened", Remedy.OPERATOR, _FILE),
    809: Code("the server's disk is full", Remedy.OPERATOR, "make room on the FileMaker Server's disk"),
    812: Code("the server takes no more sessions", Remedy.LATER, _LIMIT),
    820: Code("the database is being closed", Remedy.LATER, _FILE),
    821: Code("the server ended the session", Remedy.LATER),
    951: Code("an unexpected error occurred in the server", Remedy.ASK),
    952: Code("the session is not valid", Remedy.LATER, "sessions end at once: is something closing them?"),
    953: Code(
        "the server's limit of data to send is reached", Remedy.OPERATOR, "the license's annual limit: Admin Console"
    ),
    956: Code("the server takes no more sessions", Remedy.LATER, _LIMIT),
    958: Code("a parameter is missing", Remedy.OPERATOR, "does the server's release speak this Data API?"),
    959: Code("the Data API is switched off", Remedy.OPERATOR, "switch it on in the Admin Console: Connectors"),
    960: Code("a parameter is not valid", Remedy.OPERATOR, "does the server's release speak this Data API?"),
    1631: Code("the script could not reach another service", Remedy.LATER),
}

_RANGES = (
    (range(200, 220), Code("access is denied", Remedy.OPERATOR, _RIGHTS)),
    (range(300, 310), Code("something is in use by somebody else", Remedy.LATER)),
    (range(500, 514), Code("a value is not valid", Remedy.ARGUMENTS)),
    (range(800, 900), Code("the file cannot be used", Remedy.OPERATOR, _FILE)),
    (range(1200, 1226), Code("a calculation of the script is wrong", Remedy.OPERATOR, _SCRIPT)),
)
_UNKNOWN = Code("the script ended with an error", Remedy.ASK)


def explained(code: int) -> Code:
    """Return what a code means; one that is not known here says no more than that it is an error."""
    if code in CODES:
        return CODES[code]
    return next((meant for codes, meant in _RANGES if code in codes), _UNKNOWN)


def failure(code: int, said: str = "") -> Failure:
    """Return the failure that an error code of FileMaker is; `said` is what the script or the server said about it."""
    meant = explained(code)
    what = f"{meant.meaning} (FileMaker error {code})"
    return Failure(what, meant.remedy, said=said, advice=meant.advice, code=code)
