"""What identifies a person or an account: a pattern for each kind, and a check of what has check digits.

A check is given a candidate, which may be longer than what counts ("4111 1111 1111 1111 12/27"), and returns how many
characters of it are one; 0 if none. Another candidate may then begin within this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Check = Callable[[str], int]

_GAP = r"[ \u00a0\u2009\u202f-]?"
"""What may stand between groups of digits: spaces, among them those of which typesetters are fond, and hyphens."""

EMAIL = r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[\w-]{2,24}"
PHONE = r"""(?x)
(?<![\w+])
(?! \d\d[-/]\d\d[-/]\d{4} (?!\d) )                                       # a date
(?: (?:\+|00) [1-9] (?:[ ./()-]{0,2}\d){6,14}                          # +44 20 7946 0958, 0049 (30) 123456
  | (?:\([2-9]\d\d\)[ ]? | [2-9]\d\d[ .-]) [2-9]\d\d [ .-] \d{4}         # (415) 555-0132
  | \(?0[1-9]\d{0,4}\)? (?:[ /-]{1,3}\d{2,8}){1,5}                      # 030 / 123 45 67
  | 0[1-9](?:\.\d\d){4}                                                 # 06.12.34.56.78
  | 0[1-9]\d{7,10}                                                      # 01512345678
)
(?!\d)
"""
CARD = rf"(?<!\d)[2-6](?:{_GAP}\d){{12,18}}(?!\d)"
IBAN = rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d{{2}}(?:{_GAP}[A-Za-z0-9]){{11,30}}"

IBAN_LENGTHS: Mapping[str, int] = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Characters of an IBAN by country, as in SWIFT's IBAN Registry (ISO 13616)."""


def check_phone(candidate: str) -> int:
    """Take numbers of 9 to 15 digits, the longest that E.164 allows, and shorter ones only with a country's code."""
    digits = sum(map(str.isdigit, candidate))
    international = candidate.startswith(("+", "00"))
    return len(candidate) if (7 if international else 9) <= digits <= (17 if candidate.startswith("00") else 15) else 0


def check_card(candidate: str) -> int:
    """Take the longest beginning of 13 to 19 digits that ends with a group and passes Luhn's check (ISO/IEC 7812-1)."""
    ends = [end for end in _ends(candidate) if not candidate[end : end + 1].isdigit()]
    return next((end for end in reversed(ends) if _luhn(_letters(candidate[:end]))), 0)


def check_iban(candidate: str) -> int:
    """Take the beginning that is as long as the country's IBANs, if its check digits are right (ISO 7064, 97-10)."""
    length = IBAN_LENGTHS.get(candidate[:2].upper(), 0)
    end = next((end for end in _ends(candidate) if len(_letters(candidate[:end])) == length), 0)
    return end if end and _remainder(_letters(candidate[:end])) == 1 else 0


def _ends(candidate: str) -> Iterator[int]:
    """Say where a beginning of a candidate may end: behind each of its letters and digits."""
    return (place + 1 for place, letter in enumerate(candidate) if letter.isalnum())


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _luhn(digits: str) -> bool:
    if not 13 <= len(digits) <= 19:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _remainder(iban: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of personal data."""

    pattern: str
    check: Check | None = None


KINDS: Mapping[str, Kind] = {
    "email": Kind(EMAIL),
    "phone": Kind(PHONE, check_phone),
    "card": Kind(CARD, check_card),
    "iban": Kind(IBAN, check_iban),
}
