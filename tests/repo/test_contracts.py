"""The import contracts cover every package, leave no way around them, and can fail."""

import subprocess
import sys

import grimp
import pytest

from tests.repo.tree import MEMBERS, ROOT, settings
from tools.seclusion import Breach, breaches

WORLD = {"os", "time"}
ADAPTERS = {"duramen.system", "duramen.cli", "duramen.not_written_yet"}


def graph(*imports):
    result = grimp.ImportGraph()
    result.add_module("os", is_squashed=True)
    result.add_module("time", is_squashed=True)
    for importer, imported in imports:
        result.add_import(importer=importer, imported=imported)
    return result


def found(*imports):
    return list(breaches(graph(*imports), "duramen", ADAPTERS, WORLD))


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("duramen", "os"),
        ("duramen.wire", "time"),
        ("duramen.deep.down", "os"),
        ("duramen.wire", "duramen.system"),
        ("duramen.wire", "duramen.cli.keys"),
        ("duramen.systematic", "os"),
    ],
)
def test_a_secluded_module_is_caught(importer, imported):
    assert found((importer, imported)) == [Breach(importer, imported)]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("duramen.system", "os"),
        ("duramen.cli.keys", "time"),
        ("duramen.cli.keys", "duramen.system"),
        ("duramen.wire", "duramen.errors"),
        ("duramen_agent.cli", "os"),
    ],
)
def test_what_is_allowed_is_let_through(importer, imported):
    assert found((importer, imported)) == []


def test_every_package_is_secluded_from_its_world():
    contracts = {
        c["package"]: c for c in settings()["tool"]["importlinter"]["contracts"] if c["type"] == "seclusion"
    }
    assert set(contracts) == {
        path.parent.name for member in MEMBERS for path in (ROOT / member).glob("*/__init__.py")
    }
    for contract in contracts.values():
        assert {"time", "socket", "threading", "asyncio", "httpx", "random", "secrets"} <= set(
            contract["world"]
        )


@pytest.mark.process
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import time", "duramen.wire must not import time"),
        ("def f():\n    from os.path import join", "duramen.wire must not import os"),
        ("import duramen_agent", "duramen.wire -> duramen_agent"),
    ],
)
def test_the_linter_as_configured_reports(tmp_path, statement, message):
    contracts = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(contracts)
    for package in ("duramen", "duramen_agent", "duramen_collector"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "duramen" / "wire.py").write_text(statement)
    program = (
        f"import sys; sys.path[:0] = ['.', {str(ROOT)!r}]; "
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    command = [sys.executable, "-c", program, "--no-cache"]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert message in result.stdout
