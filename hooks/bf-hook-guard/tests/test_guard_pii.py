"""Personal data: what has check digits is found when they are right, and only then; other kinds by their form."""

from __future__ import annotations

import string

import pytest
from bf_hook_guard.pii import IBAN_LENGTHS, check_card, check_iban
from bf_hook_guard.scanner import Scan, Scanner
from bf_hook_guard.settings import load, scanners
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.testing import new_run


def guarding(*kinds: str) -> Scanner:
    _, scanner = scanners(load({"rules": [{"name": "pii", "pii": list(kinds), "mask": "#"}]}))
    assert scanner is not None
    return scanner


EMAIL, PHONE, CARD, IBAN = (guarding(kind) for kind in ("email", "phone", "card", "iban"))


def seen(scanner: Scanner, text: str) -> str:
    """Return what the page sees of a text that comes letter by letter."""
    scan = Scan(scanner, new_run())
    return "".join(map(scan.feed, text)) + scan.feed("", final=True)


def covered(scanner: Scanner, secret: str, before: str = "It is ", after: str = ", you see.") -> bool:
    return seen(scanner, before + secret + after) == before + "#" * len(secret) + after


# e-mail, phone -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["bob@example.com", "Bob.Smith+news@mail.example.co.uk", "o_k-1@xn--bcher-kva.example", "jürgen@bücher.example"],
)
def test_addresses_are_found(address: str) -> None:
    """With dots, tags, letters of other languages, domains of several parts."""
    assert covered(EMAIL, address)
    assert covered(EMAIL, address, "<", ">")


@pytest.mark.parametrize("text", ["me @ home", "at@home", "@alice: see a.b", "bob@", "5 @ 3.50"])
def test_what_is_no_address_stays(text: str) -> None:
    """An at sign alone makes none."""
    assert seen(EMAIL, text) == text


@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0958",
        "+1 (415) 555-0132",
        "0049 30 901820",
        "(415) 555-0132",
        "415-555-0132",
        "030 / 123 45 67",
        "(030) 1234567",
        "06.12.34.56.78",
        "01512345678",
    ],
)
def test_phone_numbers_are_found(number: str) -> None:
    """As people write them in several countries; the examples are numbers set aside for examples."""
    assert covered(PHONE, number)


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-26 at 10:30:00",
        "from 01-02-2026 10:30 on",
        "it costs 1,234,567.89 or 0.50",
        "version 3.11.7 of 2023",
        "the years 1914-1918 and 1939-1945",
        "order 123456789012",
        "192.168.100.200",
        "pages 03-17",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    """Dates, prices, versions, orders."""
    assert seen(PHONE, text) == text


# cards ---------------------------------------------------------------------------------------------------------------


def with_luhn(digits: str) -> str:
    return next(digits + last for last in string.digits if check_card(digits + last))


CARDS = st.builds(
    lambda first, more: with_luhn(first + more),
    st.sampled_from("23456"),
    st.text(string.digits, min_size=11, max_size=17),
)


@pytest.mark.parametrize(
    "number",
    # published by card companies for tests: Visa (16 and 13), Mastercard, American Express, Discover, Diners, JCB
    [
        "4111111111111111",
        "4222222222222",
        "5555 5555 5555 4444",
        "3782-822463-10005",
        "6011\u00a01111\u00a01111\u00a01117",
        "3056 930902 5904",
        "3530111333300000",
    ],
)
def test_cards_are_found(number: str) -> None:
    """In groups of any kind, and at the end of the text."""
    assert covered(CARD, number)
    assert covered(CARD, number, after="")
    assert covered(CARD, number, after=" 12/27 123")


@given(number=CARDS)
def test_every_number_with_right_check_digits_is_found(number: str) -> None:
    """Of 13 to 19 digits."""
    assert covered(CARD, number)


@given(number=CARDS, place=st.integers(0, 18), by=st.integers(1, 9))
def test_a_wrong_digit_makes_it_another_number(number: str, place: int, by: int) -> None:
    """The check finds every single wrong digit, so orders and tracking numbers mostly stay."""
    place %= len(number)
    wrong = number[:place] + str((int(number[place]) + by) % 10) + number[place + 1 :]
    assert seen(CARD, f"It is {wrong}.") == f"It is {wrong}."


# account numbers -----------------------------------------------------------------------------------------------------


def with_check_digits(country: str, rest: str) -> str:
    return next(iban for check in range(2, 99) if check_iban(iban := f"{country}{check:02}{rest}"))


@st.composite
def ibans(draw: st.DrawFn) -> str:
    country = draw(st.sampled_from(sorted(IBAN_LENGTHS)))
    size = IBAN_LENGTHS[country] - 4
    return with_check_digits(country, draw(st.text(string.digits + "ABCXYZ", min_size=size, max_size=size)))


@pytest.mark.parametrize(
    "number",
    # the examples of SWIFT's IBAN Registry
    [
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "fr14 2004 1010 0505 0001 3m02 606",
    ],
)
def test_account_numbers_are_found(number: str) -> None:
    """In groups or not; what follows is not taken for a part of them."""
    assert covered(IBAN, number)
    assert covered(IBAN, number, after=" or 1234 5678")
    assert covered(IBAN, number, after="")


@given(number=ibans())
def test_every_account_number_with_right_check_digits_is_found(number: str) -> None:
    """Of every country, as long as that one's are."""
    assert covered(IBAN, number)


@given(number=ibans(), place=st.integers(4, 33), by=st.integers(1, 9))
def test_a_wrong_digit_makes_it_no_account_number(number: str, place: int, by: int) -> None:
    """ISO 7064 finds every single wrong digit."""
    place = 4 + (place - 4) % (len(number) - 4)
    if number[place].isdigit():
        wrong = number[:place] + str((int(number[place]) + by) % 10) + number[place + 1 :]
        assert seen(IBAN, f"It is {wrong}.") == f"It is {wrong}."


def test_kinds_together() -> None:
    """One rule may look for several."""
    text = "bob@example.com pays with 4111 1111 1111 1111 from DE89 3704 0044 0532 0130 00, or call +44 20 7946 0958."
    shown = seen(guarding("email", "card", "iban", "phone"), text)
    assert shown == f"{'#' * 15} pays with {'#' * 19} from {'#' * 27}, or call {'#' * 16}."
