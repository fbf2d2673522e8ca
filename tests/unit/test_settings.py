"""Settings that cannot work are named, each with what is wrong, and without its value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.settings import BadSettings, load_settings


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"BF_RUN_TIMEOUT": "value-1", "BF_STATE_MODE": "value-2"}, ["BF_STATE_MODE", "BF_RUN_TIMEOUT"]),
        ({"BF_HEARTBEAT_TIMEOUT": "0.5"}, ["BF_HEARTBEAT_TIMEOUT"]),
        ({"BF_PLUGINS": "value-1"}, ["BF_PLUGINS"]),
        ({"BF_APPS": '{"a": {"model": 1}}'}, ["BF_APPS_FILE", "BF_APPS_FILE"]),
        ({"BF_APPS_FILE": "no/such/file"}, ["BF_APPS_FILE"]),
        ({"BF_API_KEYS_FILE": "no/such/file"}, ["BF_API_KEYS_FILE"]),
    ],
)
def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], names: list[str]) -> None:
    """Whatever the source refuses, and however it says so, there is one error with all of it."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(BadSettings) as caught:
        load_settings()

    assert [name for name, _ in caught.value.problems] == names
    assert all(f"{name}: " in str(caught.value) for name in names)
    assert "value-" not in str(caught.value)


def test_places_in_the_apps_file_are_told(tmp_path: Path) -> None:
    """A table and its key are named as they stand in the file."""
    file = tmp_path / "apps.toml"
    file.write_text("[apps.portal]\napi_keys = ['x']\nmax_runs = 0\n[apps.other]\n", encoding="utf-8")

    with pytest.raises(BadSettings) as caught:
        load_settings(apps_file=file)

    (first, _), (second, _) = (problem.split(":")[:2] for _, problem in caught.value.problems)
    assert (first, second) == ("apps.portal.max_runs", "apps.other.api_keys")


@given(value=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=12))
def test_no_value_is_quoted(value: str) -> None:
    """A setting that is no number is refused without being repeated."""
    with pytest.raises(BadSettings) as caught:
        load_settings(run_timeout=f"x{value}")
    assert value not in str(caught.value)
