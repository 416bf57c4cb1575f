"""Sizes, times, unknown keys and the environment, as both configurations read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duramen.errors import ConfigurationError
from duramen.settings import demand_known, nearest_key_message, overlay, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), (17, 17), ("1B", 1), ("512MiB", 2**29), ("2GiB", 2**31), ("1TiB", 2**40)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1MB",
        "-1",
        "1.5GiB",
        "1 MiB",
        True,
        None,
        "9223372036854775808",
        "9999999999TiB",
        "\u0661MiB",
        1.0,
    ],
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match="spool"):
        parse_size(text, "spool.max_bytes")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30s", 30), ("2m", 120), ("1h", 3600), ("30d", 2592000), ("1w", 604800)]
)
def test_times(text: str, seconds: int) -> None:
    assert parse_duration(text, "x") == seconds * 10**9


def test_years_and_milliseconds() -> None:
    assert parse_duration("7y", "x") == 7 * 365 * 86400 * 10**9
    assert parse_duration("500ms", "x") == 5 * 10**8


@pytest.mark.parametrize("text", ["", "5", 5, "1.5s", "-1s", "s", "1 s", "1M", "400y", None, True])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match="heartbeat"):
        parse_duration(text, "heartbeat")


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            value = parse(text, "k")
        except ConfigurationError as error:
            value, refusal = 0, str(error)
            assert "k is" in refusal  # either outcome is right; each has its own shape
        assert value >= 0


def test_the_nearest_key_is_named() -> None:
    assert "did you mean publish.copies?" in nearest_key_message("copys", ["copies", "interval"], "publish")
    assert "known here: listen, name" in nearest_key_message("zzz", ["name", "listen"])
    with pytest.raises(ConfigurationError, match="did you mean listen"):
        demand_known(["name", "lisen"], ["name", "listen"])
    demand_known(["name"], ["name", "listen"])


def test_the_environment_lies_over_the_file() -> None:
    tree = {"publish": {"copies": 2, "interval": "10s"}, "name": "x"}
    got = overlay(
        tree,
        {"D__PUBLISH__COPIES": "3", "D__NEW__KEY": "v", "D_OTHER": "no", "PATH": "/"},
        "D",
        lambda _, text: text,
    )
    assert got == {"publish": {"copies": "3", "interval": "10s"}, "name": "x", "new": {"key": "v"}}
    assert tree["publish"] == {"copies": 2, "interval": "10s"}


@pytest.mark.parametrize("name", ["D__NAME__SUB", "D__", "D__A____B"])
def test_a_variable_that_names_no_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        overlay({"name": "x"}, {name: "1"}, "D", lambda _, text: text)
