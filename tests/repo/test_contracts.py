"""The import contracts cover every package and leave no way around them."""

from tests.repo.tree import ROOT, settings

FOLDERS = {"duramen": "core", "duramen_agent": "agent", "duramen_collector": "collector"}


def contracts(kind):
    return [
        contract for contract in settings()["tool"]["importlinter"]["contracts"] if contract["type"] == kind
    ]


def exists(module):
    path = ROOT / FOLDERS[module.split(".")[0]] / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def adapters():
    """The modules that are let out of a contract, the packages among them without their wildcard."""
    found = set()
    for contract in contracts("forbidden"):
        for ignored in contract.get("ignore_imports", []):
            importer, imported = ignored.split(" -> ")
            assert imported == "**", "a module is an adapter or it is not; single imports are not let through"
            found.add(importer.removesuffix(".**"))
    return found


def test_every_package_has_a_world_it_must_not_touch():
    for package in FOLDERS:
        kept_out = [
            set(c["forbidden_modules"]) for c in contracts("forbidden") if c["source_modules"] == [package]
        ]
        assert any({"time", "socket", "threading", "asyncio", "httpx"} <= names for names in kept_out), (
            package
        )


def test_every_adapter_that_exists_is_protected():
    protected = {module for contract in contracts("protected") for module in contract["protected_modules"]}
    assert {module for module in adapters() if exists(module)} - protected == set()
