"""The command line: each command once, each mistake in one sentence with its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from duramen.api import parse_join_string
from duramen.commandline import run
from duramen.errors import ConfigurationError
from duramen.system import SystemClock, SystemRandom
from duramen_collector.assembly import api_document
from duramen_collector.cli import app
from duramen_collector.configuration import load_configuration
from duramen_collector.statedir import StateDirectory, initialise, server_names


class Shell:
    """Runs commands in this process."""

    def __init__(self, directory: Path, capsys: Any) -> None:
        self.directory = directory
        self.config = directory / "etc" / "collector.yaml"
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        got = run(app, [*words, "--config", str(self.config)], "duramen-collector")
        out, self.err = self._capsys.readouterr()
        assert got == code, self.err
        return str(out)

    def init(self, *words: str) -> str:
        regions = [f"--region={name}=file://{self.directory}/{name}" for name in ("eu", "us")]
        state = f"--state-dir={self.directory}/state"
        return self("init", "--name=logs.example.com", "--listen=127.0.0.1:1", state, *regions, *words)


@pytest.fixture
def shell(tmp_path: Path, capsys: Any) -> Shell:
    return Shell(tmp_path, capsys)


def test_init_makes_everything_and_says_so_and_nothing_the_second_time(shell: Shell) -> None:
    said = shell.init()
    for word in ("configuration", "authority", "server certificate", "pepper", "revision 0001"):
        assert word in said
    state = shell.directory / "state"
    assert {path.name for path in state.iterdir()} >= {
        "ca.key",
        "ca.pem",
        "server.key",
        "server.pem",
        "pepper",
    }
    for name in ("ca.key", "server.key", "pepper", "collector.db"):
        assert (state / name).stat().st_mode & 0o077 == 0
    before = {path: path.read_bytes() for path in state.iterdir() if path.suffix in {".pem", ".key"}}
    assert shell("init") == "everything is there already\n"
    assert {path: path.read_bytes() for path in before} == before
    assert "reader" not in " ".join(path.name for path in state.rglob("*"))
    assert shell("check-config") == f"{shell.config} is in order\n"
    assert load_configuration(shell.config, {}).publish.copies == 2


def test_init_refuses_what_makes_no_sense(shell: Shell) -> None:
    shell("init", "--name=x", code=64)
    assert "at least one region" in shell.err
    shell("init", "--region=eu", code=64)
    shell("init", "--region=eu=s3://x", code=78)
    assert not shell.config.exists()
    shell.init()
    shell("init", "--copies=1", code=64)
    assert "edit it" in shell.err


def test_init_completes_what_a_crash_left(shell: Shell) -> None:
    shell.init()
    state = shell.directory / "state"
    (state / "server.key").unlink()
    assert "server certificate" in shell("init")
    configuration = load_configuration(shell.config, {"DURAMEN_COLLECTOR__NAMES": "[c2.example.com]"})
    assert "c2.example.com" in server_names(configuration)
    assert any(
        "server certificate" in line for line in initialise(configuration, SystemClock(), SystemRandom())
    )
    assert initialise(configuration, SystemClock(), SystemRandom()) == []
    (state / "ca.key").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.key cannot be read"):
        initialise(configuration, SystemClock(), SystemRandom())
    (state / "ca.pem").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        StateDirectory(state).authority()


def test_server_names(shell: Shell) -> None:
    shell.init()

    def names(listen: str) -> tuple[str, ...]:
        return server_names(load_configuration(shell.config, {"DURAMEN_COLLECTOR__LISTEN": listen}))

    assert names("0.0.0.0:1") == ("logs.example.com", "localhost", "127.0.0.1", "::1")
    assert names("10.0.0.9:1") == ("logs.example.com", "10.0.0.9")
    assert names("c1.example.com:1") == ("logs.example.com", "c1.example.com")


def test_tenants(shell: Shell) -> None:
    shell("tenant", "list", code=78)
    shell.init()
    said = shell("tenant", "create", "acme")
    assert "logs.example.com/acme" in said
    assert (shell.directory / "eu" / "acme" / "head").exists()
    assert "there already" in shell("tenant", "create", "acme")
    shell("tenant", "create", "Acme", code=64)
    (listed,) = json.loads(shell("tenant", "list", "--json"))
    assert listed["origin"] == "logs.example.com/acme"
    assert listed["log_keys"] == said.splitlines()[1:]
    assert "private" in shell("tenant", "list")


def test_tokens(shell: Shell) -> None:
    shell.init()
    shell("tenant", "create", "acme")
    token = shell("token", "create", "--tenant=acme", "--role=auditor", "--ttl=1d")
    assert token.startswith("drm-api-")
    (listed,) = json.loads(shell("token", "list", "--json"))
    assert (listed["role"], listed["tenant"], listed["revoked"]) == ("auditor", "acme", None)
    assert "auditor\tacme\tuntil" in shell("token", "list")
    shell("token", "revoke", listed["token_id"])
    assert "revoked" in shell("token", "list")
    assert json.loads(shell("token", "list", "--json"))[0]["revoked"]
    shell("token", "revoke", "none", code=64)
    shell("token", "create", "--tenant=beta", code=64)
    shell("token", "create", "--role=king", code=64)
    shell("token", "create", "--ttl=soon", code=78)


def test_a_join_string(shell: Shell) -> None:
    shell.init()
    said = shell("tenant", "create", "acme")
    text = shell("enroll-token", "--tenant=acme", "--agent=web-1")
    assert text.count("\n") == 1
    join = parse_join_string(text)
    assert (join.tenant, join.agent) == ("acme", "web-1")
    assert join.collectors == ("https://logs.example.com:1",)
    assert list(join.log_keys) == said.splitlines()[1:]
    assert join.ca_pem == (shell.directory / "state" / "ca.pem").read_text()
    join = parse_join_string(
        shell("enroll-token", "--tenant=acme", "--agent=web-1", "--url=https://a:1", "--url=https://b:2")
    )
    assert join.collectors == ("https://a:1", "https://b:2")
    shell("enroll-token", "--tenant=beta", "--agent=web-1", code=64)
    shell("enroll-token", "--tenant=acme", "--agent=Web 1", code=64)
    shell("enroll-token", "--tenant=acme", "--agent=web-1", "--ttl=8d", code=64)
    shell("enroll-token", "--tenant=acme", code=64)


def test_status_of_a_collector_that_does_not_run(shell: Shell) -> None:
    shell.init()
    shell("tenant", "create", "acme")
    found = json.loads(shell("status", "--json", code=3))
    assert found["state"] == "not running"
    assert found["tenants"] == [{"tenant": "acme", "chains": 0, "waiting": 1}]
    assert "1 statements wait" in shell("status", code=3)


def test_the_api_document(capsys: Any) -> None:
    assert run(app, ["openapi"], "duramen-collector") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["openapi"].startswith("3.1")
    assert document == api_document(SystemClock(), SystemRandom())
    assert {"/v1/enroll", "/v1/chains/{chain}/blocks", "/t/{tenant}/checkpoint", "/healthz"} <= document[
        "paths"
    ].keys()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert "4XX" in operation["responses"], path


def test_serve_without_init(shell: Shell, tmp_path: Path) -> None:
    shell("serve", code=78)
    shell.init()
    (tmp_path / "state" / "pepper").unlink()
    shell("serve", code=78)
    assert "pepper cannot be read" in shell.err


def test_usage_errors_are_64(capsys: Any) -> None:
    assert run(app, ["nonsense"], "duramen-collector") == 64
    assert run(app, ["--version"], "duramen-collector") == 0
    assert "duramen-collector" in capsys.readouterr().out
