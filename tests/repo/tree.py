"""The checkout as its tests see it: tracked files and settings."""

import functools
import pathlib
import subprocess
import tomllib
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
MEMBERS = ("core", "agent", "collector")
LOCKS = ("duramen", "agent", "collector", "dev")


@functools.cache
def tracked_files() -> tuple[pathlib.Path, ...]:
    """Every file that git knows and that is there, in order; new files count before they are committed."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    paths = sorted({ROOT / name for name in names if name})
    return tuple(path for path in paths if path.is_file())


@functools.cache
def tracked_texts() -> dict[str, str]:
    """The tracked files that are UTF-8 text, by their path from the root."""
    texts = {}
    for path in tracked_files():
        try:
            texts[path.relative_to(ROOT).as_posix()] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
    return texts


@functools.cache
def settings(member: str = ".") -> dict[str, Any]:
    """The pyproject.toml of a member, or of the root."""
    return tomllib.loads((ROOT / member / "pyproject.toml").read_text())


def lock_entries(name: str) -> dict[str, str]:
    """Distribution to version, as one lock of requirements/ pins them."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    return dict(pins)
