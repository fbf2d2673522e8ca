from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from bf_plugin.errors import DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.messengers import settle


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_accepted(status: int) -> None:
    """Any success will do."""
    settle(status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    """Busy and broken gateways get the same bytes again."""
    with pytest.raises(DeliveryRetry, match=str(status)) as caught:
        settle(status)
    assert caught.value.retry_after is None


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 403, 404, 409, 410, 413, 422])
def test_the_rest_is_final(status: int) -> None:
    """Redirects, wrong keys and wrong messages do not get better."""
    with pytest.raises(DeliveryRefused, match=str(status)):
        settle(status)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("0", 0, 0),
        ("7", 7, 7),
        pytest.param(formatdate(time.time() + 3600, usegmt=True), 1800, 3601, id="in an hour"),
        pytest.param(formatdate(0, usegmt=True), 0, 0, id="long ago"),
    ],
)
def test_retry_after_is_told_in_seconds(header: str, low: float, high: float) -> None:
    """Both forms of the header are understood; a date in the past is now."""
    with pytest.raises(DeliveryRetry) as caught:
        settle(503, header)
    assert caught.value.retry_after is not None
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("header", ["soon", "-1", "", "1.5"])
def test_a_retry_after_that_is_none_is_ignored(header: str) -> None:
    """Nonsense in the header does not hide the status."""
    with pytest.raises(DeliveryRetry) as caught:
        settle(429, header)
    assert caught.value.retry_after is None
