"""The locks: pinned, hashed, without addresses, in agreement with one another and with the members."""

import itertools
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.repo.tree import LOCKS, MEMBERS, ROOT, lock_entries, settings

PIN = re.compile(r"[a-z0-9-]+==[0-9][A-Za-z0-9.+!]*( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_pins_and_hashes_only(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    assert [line for line in body if not PIN.fullmatch(line) and not HASH.fullmatch(line)] == []
    followed = itertools.pairwise(body)
    assert [pin for pin, after in followed if PIN.fullmatch(pin) and not HASH.fullmatch(after)] == []
    assert PIN.fullmatch(body[0])
    assert HASH.fullmatch(body[-1])


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_no_member(name):
    members = {settings(member)["project"]["name"] for member in MEMBERS}
    assert members.isdisjoint(lock_entries(name))


@pytest.mark.parametrize("name", [name for name in LOCKS if name != "dev"])
def test_every_role_runs_what_was_tested(name):
    tested = lock_entries("dev")
    assert {
        pin: tested.get(pin[0]) for pin in lock_entries(name).items() if tested.get(pin[0]) != pin[1]
    } == {}


def requirements(member, extras):
    project = settings(member)["project"]
    optional = project.get("optional-dependencies", {})
    return project["dependencies"] + [need for extra in extras for need in optional[extra]]


@pytest.mark.parametrize(
    ("name", "member", "extras"),
    [("duramen", "core", ("cli", "http")), ("agent", "agent", ()), ("collector", "collector", ())],
)
def test_lock_satisfies_its_member(name, member, extras):
    pins = lock_entries(name)
    for need in map(Requirement, requirements(member, extras)):
        if canonicalize_name(need.name) != "duramen":
            assert need.specifier.contains(Version(pins[canonicalize_name(need.name)])), need


def test_development_lock_satisfies_the_tools():
    pins = lock_entries("dev")
    for need in map(Requirement, settings()["dependency-groups"]["dev"]):
        assert need.specifier.contains(Version(pins[canonicalize_name(need.name)])), need


def test_agent_list_agrees_with_its_lock():
    listed = set((ROOT / "requirements" / "agent.dists.txt").read_text().split())
    ours = {"duramen", "duramen-agent"}
    assert ours <= listed
    assert listed - ours <= set(lock_entries("agent"))
