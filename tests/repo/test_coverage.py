"""Coverage counts every product module, and sees what children execute, however they end but by SIGKILL."""

import importlib
import os
import subprocess
import sys

import coverage
import pytest

from tests.repo.tree import MEMBERS, ROOT, settings

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
if sys.argv[2] == "terminate":
    child.terminate()
child.wait()
"""
CHILD = """
import time
from duramen.wire import Reader
Reader(b"a", "a message").take(1)
print(flush=True)
if {wait}:
    time.sleep(60)
"""


@pytest.mark.parametrize("package", settings()["tool"]["coverage"]["run"]["source_pkgs"])
def test_every_package_counts(package):
    """Coverage counts the modules nobody imported, but only of packages that somebody did: this test does."""
    assert importlib.import_module(package).__doc__


def test_every_package_is_measured():
    packages = {path.parent.name for member in MEMBERS for path in (ROOT / member).glob("*/__init__.py")}
    assert packages == set(settings()["tool"]["coverage"]["run"]["source_pkgs"])


@pytest.mark.process
@pytest.mark.parametrize("end", ["exit", "terminate"])
def test_children_are_measured(tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["COVERAGE_FILE"] = str(tmp_path / "data")
    child = CHILD.format(wait=end == "terminate")
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        f"--rcfile={ROOT / 'pyproject.toml'}",
        str(script),
        child,
        end,
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, timeout=30)

    measured = set()
    for path in tmp_path.glob("data.*"):
        data = coverage.CoverageData(str(path))
        data.read()
        measured |= {name for name in data.measured_files() if data.lines(name) or data.arcs(name)}
    assert "core/duramen/wire.py" in measured
