"""Proof that the agent's wheels are complete and its environment is light.

``wheels.py WHEELS REQUIREMENTS ENVIRONMENT`` looks into the three wheels of folder WHEELS (package,
``py.typed`` and licence in, nothing else at the top), then installs the agent alone into the fresh virtual
environment ENVIRONMENT: REQUIREMENTS/agent.txt with every hash demanded, our two wheels with no dependencies
resolved. The distributions that are there afterwards must be those of REQUIREMENTS/agent.dists.txt, none more
and none less, ``pip check`` must be content, and the agent must import.

It proves the environment of the Python and platform it runs on, no other. A difference is printed, and the
exit code is 1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

AGENT: Final = ("duramen", "duramen_agent")
"""The wheels that an agent's host gets."""
PACKAGES: Final = (*AGENT, "duramen_collector")
"""Every wheel there must be, by its import package."""
COLLECTOR_ONLY: Final = frozenset(
    {
        "alembic",
        "boto3",
        "fastapi",
        "google-cloud-storage",
        "psycopg",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "uvloop",
    }
)
"""Never on an agent's host, whatever its list says."""
TOOLING: Final = frozenset({"pip", "setuptools"})
"""What a virtual environment brings along by itself."""


class WheelError(Exception):
    """The wheels or the environment are not what they must be; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel: where it lies, the package it holds, its version."""

    path: Path
    package: str
    version: str


def find(folder: Path) -> dict[str, Wheel]:
    """The three wheels in ``folder`` by package; any other number, or two versions, is a WheelError."""
    wheels = {}
    for path in sorted(folder.glob("*.whl")):
        package, version, _ = path.name.split("-", 2)
        wheels[package] = Wheel(path, package, version)
    if sorted(wheels) != sorted(PACKAGES) or len(list(folder.iterdir())) != len(PACKAGES):
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise WheelError(f"{folder} must hold the wheels of {', '.join(PACKAGES)}, and holds {found}.")
    if len({wheel.version for wheel in wheels.values()}) != 1:
        raise WheelError(f"The wheels in {folder} are not of one version: build all three again.")
    return wheels


def inspect(wheel: Wheel) -> None:
    """Raise a WheelError unless the wheel holds package, type marker, licence and nothing beside them."""
    with zipfile.ZipFile(wheel.path) as archive:
        names = set(archive.namelist())
    info = f"{wheel.package}-{wheel.version}.dist-info"
    needed = {
        f"{wheel.package}/__init__.py",
        f"{wheel.package}/py.typed",
        f"{info}/licenses/LICENSE",
        f"{info}/METADATA",
    }
    if missing := needed - names:
        raise WheelError(f"{wheel.path.name} lacks {', '.join(sorted(missing))}.")
    if strangers := {name.split("/")[0] for name in names} - {wheel.package, info}:
        raise WheelError(
            f"{wheel.path.name} also holds {', '.join(sorted(strangers))}, which belongs to nobody."
        )
    if junk := [name for name in names if "__pycache__" in name or name.endswith(".pyc")]:
        raise WheelError(f"{wheel.path.name} holds compiled files: {', '.join(sorted(junk))}.")


def normal(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compare(installed: set[str], listed: set[str]) -> None:
    """Raise a WheelError unless ``installed`` is ``listed`` and holds nothing of the collector's alone."""
    if strangers := installed & COLLECTOR_ONLY:
        raise WheelError(
            f"The agent's environment holds what only a collector needs: {', '.join(sorted(strangers))}."
        )
    if installed != listed:
        more = ", ".join(sorted(installed - listed)) or "none"
        less = ", ".join(sorted(listed - installed)) or "none"
        raise WheelError(
            f"The agent's environment differs from requirements/agent.dists.txt (more: {more}; "
            f"missing: {less}): if the change is meant, correct the list."
        )


def run(*command: str | Path) -> str:
    """The output of ``command``; a failure is a WheelError with what it said."""
    result = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if result.returncode:
        said = (result.stdout + result.stderr).strip()
        raise WheelError(f"{' '.join(str(part) for part in command)} failed: {said}")
    return result.stdout


def install(environment: Path, lock: Path, wheels: list[Wheel]) -> set[str]:
    """Make ``environment`` anew from the lock and the wheels; the distributions that are in it then."""
    venv.create(environment, clear=True, with_pip=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    run(*pip, "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *[wheel.path for wheel in wheels])
    run(*pip, "check")
    run(python, "-I", "-c", "import " + ", ".join(wheel.package for wheel in wheels))
    listing = json.loads(run(*pip, "list", "--format=json"))
    return {normal(entry["name"]) for entry in listing} - TOOLING


def main(arguments: list[str]) -> int:
    """Run every step on the three paths of the command line; the exit code."""
    folder, requirements, environment = map(Path, arguments)
    try:
        wheels = find(folder)
        for wheel in wheels.values():
            inspect(wheel)
        installed = install(environment, requirements / "agent.txt", [wheels[package] for package in AGENT])
        compare(installed, set((requirements / "agent.dists.txt").read_text().split()))
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(wheels)} wheels of version {wheels[AGENT[0]].version}; the agent's environment:")
    print(*sorted(installed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
