"""Documents say what is there: targets, links, decisions, changes."""

import re
import subprocess
import sys

import pytest

from tests.repo.tree import ROOT, settings, tracked_texts

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
PUBLIC_TARGETS = {"demo", "test", "check", "bench", "sim", "lock", "wheels", "format", "clean", "help"}


def targets():
    rules = re.findall(r"^([a-z-]+):[^=#]*## (\S.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return dict(rules)


def documents():
    return {name: text for name, text in tracked_texts().items() if name.endswith(".md")}


def test_every_rule_of_the_makefile_is_phony_and_described():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert phony == set(targets())
    assert phony >= PUBLIC_TARGETS


def test_readme_explains_every_public_target():
    readme = (ROOT / "README.md").read_text()
    assert [target for target in sorted(PUBLIC_TARGETS) if f"`make {target}`" not in readme] == []
    assert set(re.findall(r"`make ([a-z-]+)", readme)) <= set(targets())


def test_links_lead_somewhere():
    broken = [
        f"{name}: {link}"
        for name, text in documents().items()
        for link in LINK.findall(text)
        if "://" not in link and not (ROOT / name).parent.joinpath(link).exists()
    ]
    assert broken == []


def test_every_decision_is_listed_and_told():
    index = (ROOT / "docs/adr/README.md").read_text()
    records = sorted(path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert records
    assert re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", index) == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    for name in records:
        text = (ROOT / "docs/adr" / name).read_text()
        assert re.match(r"# \d{4}: \S", text), name
        assert len(text.split()) > 60, f"{name} does not say what pressed, what was decided, what follows"


def test_changelog_has_a_place_for_the_next_change():
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert "### Added" in text


def test_readme_states_the_version_it_speaks_of():
    assert settings("core")["project"]["version"] in (ROOT / "README.md").read_text()


@pytest.mark.process
def test_make_alone_lists_every_target():
    listing = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert {line.split()[0] for line in listing.splitlines()[1:]} == set(targets())


@pytest.mark.process
@pytest.mark.parametrize(
    ("python", "message"),
    [("", "Python 3.11 or newer is needed"), ("false", "false is not a Python 3.11 or newer")],
)
def test_set_up_says_what_is_missing(tmp_path, python, message):
    command = ["make", "--no-print-directory", "setup", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr.startswith(message)
    assert not (tmp_path / "venv").exists()


@pytest.mark.process
def test_set_up_names_the_debian_package_that_is_missing(tmp_path):
    python = tmp_path / "python3.11"
    python.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "setup", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode != 0
    assert "run apt-get install python3-venv as root" in result.stderr
    assert not (tmp_path / "venv").exists()
