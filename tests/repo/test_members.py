"""The three distributions are released as one: one version, exact pins, one licence, full metadata."""

import pytest
from packaging.requirements import Requirement

from tests.repo.tree import MEMBERS, ROOT, settings

PACKAGES = {"core": "duramen", "agent": "duramen_agent", "collector": "duramen_collector"}


def test_one_version():
    assert len({settings(member)["project"]["version"] for member in MEMBERS}) == 1


def test_members_pin_one_another_exactly():
    names = {
        settings(member)["project"]["name"]: settings(member)["project"]["version"] for member in MEMBERS
    }
    pins = []
    for member in MEMBERS:
        project = settings(member)["project"]
        optional = [need for extra in project.get("optional-dependencies", {}).values() for need in extra]
        for need in map(Requirement, project["dependencies"] + optional):
            if need.name in names:
                assert str(need.specifier) == f"=={names[need.name]}", f"{member}: {need}"
                pins.append((member, need.name))
    assert pins == [("agent", "duramen"), ("collector", "duramen")]


@pytest.mark.parametrize("member", MEMBERS)
def test_metadata_is_complete(member):
    project = settings(member)["project"]
    assert project["authors"] == [{"name": "Duramen maintainers"}]
    assert project["license"] == "Apache-2.0"
    assert len(project["description"]) > 20
    assert "Typing :: Typed" in project["classifiers"]
    assert (ROOT / member / project["readme"]).read_text().startswith(f"# {project['name']}\n")


@pytest.mark.parametrize("member", MEMBERS)
def test_wheel_has_what_it_must_carry(member):
    assert (ROOT / member / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / member / PACKAGES[member] / "py.typed").read_bytes() == b""
    assert settings(member)["project"]["license-files"] == ["LICENSE"]
