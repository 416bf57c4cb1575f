"""The configuration: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from duramen.errors import ConfigurationError
from duramen_agent.configuration import load_configuration, parse_configuration

GOOD = """\
tenant: acme
agent: web-1
collectors: [https://c1.example.com:8443, "https://c2.example.com:8443/"]
ca: /etc/duramen/ca.pem
log_keys: ["logs.example.com/acme+1", "logs.example.com/acme+2"]
recipients: [/etc/duramen/readers.pub]
sources:
  - {stream: nginx/access, paths: [/var/log/nginx/access.log], labels: {app: shop}}
  - {stream: app, paths: ["/srv/*/log/*.log"], exclude: ["*.gz"], shred_group: customers, retention_class: 1}
seal: {max_delay: 500ms, burst: 50}
heartbeat: 10s
receipts: {keep: 0s, policy: /etc/duramen/log.policy}
spool: {max_bytes: 2GiB, min_free_bytes: 512MiB, hold_bytes: 1GiB, on_full: block}
"""


def parse(text: str, **environ: str):
    return parse_configuration(text.encode(), environ, "agent.yaml")


def changed(path: str, value: object) -> str:
    document = yaml.safe_load(GOOD)
    *parents, last = path.split(".")
    at = document
    for key in parents:
        at = at[int(key)] if key.isdigit() else at.setdefault(key, {})
    at[last] = value
    return yaml.safe_dump(document)


def test_the_contract_s_example_is_accepted() -> None:
    configuration = parse(GOOD)
    assert configuration.seal.max_delay == 500 * 10**6
    assert configuration.spool.max_bytes == 2 * 2**30
    assert configuration.state_dir == "/var/lib/duramen"
    assert configuration.collectors[1] == "https://c2.example.com:8443"
    assert configuration.sources[1].shred_group == "customers"
    assert configuration.sources[0].shred_group == "default"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("spol", {}, "there is no key spol; did you mean spool?"),
        ("spool.max_byte", 1, "there is no key spool.max_byte; did you mean spool.max_bytes?"),
        ("sources.1.labls", {}, "there is no key sources[1].labls; did you mean sources[1].labels?"),
        (
            "sources.0.journald",
            {"units": ["a"]},
            "sources[0].journald: reading the journal is not supported in this release",
        ),
        (
            "spool.on_full",
            "drop_oldest",
            "spool.on_full: drop_oldest is not supported in this release; write block",
        ),
        ("spool.on_full", "explode", "spool.on_full: input should be 'block'"),
        (
            "spool.max_bytes",
            "12 parsecs",
            "spool.max_bytes is '12 parsecs', which is not a size; write it like 512MiB or 2GiB",
        ),
        ("spool.max_bytes", "1MiB", "spool.max_bytes: input should be greater than or equal to 16777216"),
        ("spool.max_bytes", -1, "spool.max_bytes is -1, which is not a size"),
        ("spool.max_bytes", True, "spool.max_bytes is True, which is not a size"),
        ("heartbeat", 10, "heartbeat is 10, which is not a time; write it like 500ms, 30s or 7d"),
        ("heartbeat", "0s", "heartbeat: input should be greater"),
        ("seal.burst", "many", "seal.burst: input should be a valid integer"),
        ("tenant", "Acme", "tenant: 'Acme' is not a tenant name"),
        ("agent", "-x", "agent: '-x' is not an agent name"),
        ("collectors", [], "collectors: tuple should have at least 1 item"),
        ("collectors", ["http://plain"], "collectors[0]: 'http://plain' is not a collector's address"),
        ("ca", "ca.pem", "ca: 'ca.pem' is not an absolute path"),
        ("log_keys", ["one"], "the key log_keys[1] is missing"),
        ("sources.0.stream", "_duramen", "sources[0].stream: '_duramen' is not a name"),
        (
            "sources.0.stream",
            "app",
            "sources: the stream app is there twice; list all its paths in one source",
        ),
        ("sources.0.paths", ["relative.log"], "sources[0].paths[0]: 'relative.log' is not an absolute path"),
        (
            "sources.0.retention_class",
            256,
            "sources[0].retention_class: input should be less than or equal to 255",
        ),
        ("sources.0.labels", {"a": "x" * 2000}, "sources[0].labels: a label has at most 1,024 characters"),
    ],
)
def test_each_mistake_has_its_sentence(path: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(changed(path, value))
    assert str(caught.value).startswith(f"agent.yaml: {sentence}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "agent.yaml: the key tenant is missing"),
        ("- a", "agent.yaml does not hold keys and values at its top"),
        ("a: [", "agent.yaml, line 1 is not valid YAML"),
        ("a: 1\na: 2", "agent.yaml, line 1 is not valid YAML: the key 'a' is there twice"),
        ("1: 2", "agent.yaml, line 1 is not valid YAML: the key 1 is not text"),
        ("? [a]\n: b", "agent.yaml"),
        ("a: !!python/object:os.system {}", "agent.yaml, line 1 is not valid YAML"),
        ("a: \x00", "agent.yaml"),
        ("x: " + "[" * 1200, "agent.yaml"),
    ],
)
def test_what_is_not_a_configuration_at_all(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_the_environment_is_stronger_than_the_file() -> None:
    configuration = parse(
        GOOD, DURAMEN_AGENT__SPOOL__MAX_BYTES="1GiB", DURAMEN_AGENT__AGENT="db-1", OTHER="x"
    )
    assert configuration.spool.max_bytes == 2**30
    assert configuration.agent == "db-1"
    assert configuration.config_sha256 != parse(GOOD).config_sha256
    assert parse(GOOD, DURAMEN_AGENT__COLLECTORS="[https://c3.example.com]").collectors == (
        "https://c3.example.com",
    )
    with pytest.raises(ConfigurationError, match=r"there is no key spol; did you mean spool\?"):
        parse(GOOD, DURAMEN_AGENT__SPOL="1")
    with pytest.raises(ConfigurationError, match="sets a key below agent, which is not a section"):
        parse(GOOD, DURAMEN_AGENT__AGENT__NAME="x")
    with pytest.raises(ConfigurationError, match="the environment variable DURAMEN_AGENT__CA"):
        parse(GOOD, DURAMEN_AGENT__CA="[")


def test_the_digest_is_of_values_not_of_text() -> None:
    spelled = GOOD.replace("2GiB", "2048MiB").replace("heartbeat: 10s", "heartbeat: 10000ms")
    assert parse(spelled).config_sha256 == parse(GOOD).config_sha256
    assert parse(GOOD.replace("10s", "11s")).config_sha256 != parse(GOOD).config_sha256


def test_a_source_of_another_kind_is_refused_by_its_own_name() -> None:
    document = yaml.safe_load(GOOD)
    document["sources"].append({"stream": "unit/app", "journald": {"units": ["app.service"]}})
    with pytest.raises(
        ConfigurationError, match=r"sources\[2\].journald: reading the journal is not supported"
    ):
        parse(yaml.safe_dump(document))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        load_configuration(str(tmp_path / "absent.yaml"), {})
    (tmp_path / "large.yaml").write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="more than 1048576 bytes"):
        load_configuration(str(tmp_path / "large.yaml"), {})
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load_configuration(str(tmp_path / "good.yaml"), {}).tenant == "acme"
