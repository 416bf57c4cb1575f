"""collector.yaml: what is read, and how each mistake is named."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from duramen.errors import ConfigurationError
from duramen_collector.configuration import Configuration, load_configuration, parse_configuration

GOOD = b"""
name: logs.example.com
listen: 0.0.0.0:8443
state_dir: /var/lib/duramen-collector
database: sqlite:///var/lib/duramen-collector/collector.db
regions:
  - {name: eu, url: "file:///srv/eu"}
  - {name: us, url: "file:///srv/us%20west"}
publish: {copies: 2, interval: 5s, max_bytes: 2MiB}
retention: {default: 7y, classes: {1: 1y}}
verification: {every: 30m, full_cycle: 7d}
names: [c1.example.com, 10.0.0.5]
"""


def parsed(text: bytes = GOOD, **environment: str) -> Configuration:
    return parse_configuration(text, environment)


def test_a_whole_file() -> None:
    found = parsed()
    assert found.publish.copies == 2
    assert found.publish.interval_ns == 5 * 10**9
    assert found.publish.max_bytes == 2 * 2**20
    assert found.retention.of(1) == 365 * 86400 * 10**9
    assert found.retention.of(0) == 7 * found.retention.of(1)
    assert found.verification.every_ns == 1800 * 10**9
    assert found.database_path == Path("/var/lib/duramen-collector/collector.db")
    assert [region.path for region in found.regions] == [Path("/srv/eu"), Path("/srv/us west")]
    assert (found.listen_host, found.listen_port) == ("0.0.0.0", 8443)
    assert found.origin("acme") == "logs.example.com/acme"


def test_defaults() -> None:
    found = parsed(b"name: a\nstate_dir: /s\nregions: [{name: eu, url: 'file:///r'}]\n")
    assert found.database_path == Path("/s/collector.db")
    assert (found.listen, found.publish.copies) == ("127.0.0.1:8443", 1)


def test_ipv6() -> None:
    found = parsed(GOOD.replace(b"0.0.0.0:8443", b"'[::1]:0'"))
    assert (found.listen_host, found.listen_port) == ("::1", 0)


def test_the_environment_wins() -> None:
    found = parsed(
        DURAMEN_COLLECTOR__PUBLISH__COPIES="1",
        DURAMEN_COLLECTOR__NAME="other.example.com",
        DURAMEN_COLLECTOR__REGIONS="[{name: x, url: 'file:///x'}]",
    )
    assert (found.publish.copies, found.name, found.regions[0].name) == (1, "other.example.com", "x")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("listen:", "lisen:", "did you mean listen"),
        ("interval: 5s", "intervall: 5s", r"publish\.intervall.*did you mean publish\.interval"),
        ("{name: eu,", "{nam: eu,", r"regions\.0\.nam"),
        ("every: 30m", "evry: 30m", "verification.evry"),
        ("names:", "policy: /x\nnames:", "policy is not served"),
        ("names:", "alerts: {}\nnames:", "alerts is not served"),
        ("names:", "envelopes: {}\nnames:", "envelopes is not served"),
        ("interval: 5s", "interval: 5", "not a time"),
        ("interval: 5s", "interval: 0s", "longer than zero"),
        ("max_bytes: 2MiB", "max_bytes: 2MB", "not a size"),
        ("max_bytes: 2MiB", "max_bytes: 0", "between"),
        ("copies: 2", "copies: 3", "there are 2 regions"),
        ("copies: 2", "copies: two", r"publish\.copies: "),
        ("copies: 2", "copies: '2'", r"publish\.copies: "),
        ("default: 7y", "default: forever", "retention.default"),
        ("{1: 1y}", "{256: 1y}", r"retention\.classes"),
        ("0.0.0.0:8443", "8443", "listen"),
        ("0.0.0.0:8443", "a_b:8443", "neither a host name"),
        ("0.0.0.0:8443", "0.0.0.0:99999", "listen"),
        ("10.0.0.5", "'a b'", "neither a host name"),
        ("file:///srv/eu", "s3://bucket/x", "not serve yet"),
        ("file:///srv/eu", "srv/eu", "written like"),
        ("file:///srv/eu", "file://host/eu", "written like"),
        ("file:///srv/eu", "file://[", "no url"),
        ("name: us,", "name: eu,", "of its own"),
        ("name: us,", "name: US,", "region name"),
        ("database: sqlite:///", "database: postgresql:///", "no other database"),
        ("state_dir: /var", "state_dir: var", "absolute"),
        ("name: logs.example.com", "name: Logs!", "host name"),
        ("name: logs.example.com\n", "", "name: this key is needed"),
        ("publish: {", "publish: [], x: {", "YAML|section"),
        ("publish: {copies: 2, interval: 5s, max_bytes: 2MiB}", "publish: 3", "section"),
        ("names:", "name: twice\nnames:", "stands twice"),
        ("names: [", "x: &a [1]\nnames: [*a, ", "alias"),
        ("names: [c1", "names: {c1", "YAML"),
        ("regions:", "regions: []\nnames_: ", "YAML|no key"),
    ],
)
def test_each_mistake_is_one_sentence(before: str, after: str, message: str) -> None:
    assert before.encode() in GOOD
    with pytest.raises(ConfigurationError, match=message) as caught:
        parsed(GOOD.replace(before.encode(), after.encode()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"- a", b"3", b"\xff", b"1: 2", b"a: [", b"regions: 3\nname: a\nstate_dir: /s"]
)
def test_what_is_no_configuration(text: bytes) -> None:
    with pytest.raises(ConfigurationError):
        parsed(text)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*Configuration.model_fields, "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_tree_is_read_or_refused(tree: dict[str, object]) -> None:
    base = yaml.safe_load(GOOD)
    with contextlib.suppress(ConfigurationError):
        parsed(yaml.safe_dump({**base, **tree}).encode())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "collector.yaml"
    with pytest.raises(ConfigurationError, match="init writes one"):
        load_configuration(path, {})
    path.write_bytes(GOOD)
    assert load_configuration(path, {}).name == "logs.example.com"
    path.write_bytes(GOOD + b"oops: 1\n")
    with pytest.raises(ConfigurationError, match=str(path)):
        load_configuration(path, {})
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="more than"):
        load_configuration(path, {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(tmp_path, {})
