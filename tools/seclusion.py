"""An import contract: the modules of a package keep away from the world, except for those listed as adapters.

It holds that no module of ``package``, at its top or anywhere below, imports (at the top of the file or in a
function) one of ``world`` or anything below those, nor one of the package's own ``adapters`` or anything
below them; adapters may do both. A new module is secluded until it is listed, and the world can't be reached
through an adapter. Names in either list that don't exist match nothing, so adapters can be listed before they
are written.

import-linter's own contract types could say the same only with every adapter listed in three places, none of
them before it exists. What is imported by name at run time is not seen, and third-party packages aren't
looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


@dataclass(frozen=True, slots=True)
class Breach:
    """A secluded module that imports what it must not."""

    importer: str
    imported: str


def is_in(module: str, packages: Iterable[str]) -> bool:
    """Whether ``module`` is one of ``packages`` or lies below one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def breaches(graph: ImportGraph, package: str, adapters: set[str], world: set[str]) -> Iterator[Breach]:
    """Every forbidden import in ``graph``, in order of names."""
    for module in sorted(graph.modules):
        if is_in(module, {package}) and not is_in(module, adapters):
            for imported in sorted(graph.find_modules_directly_imported_by(module)):
                if is_in(imported, world | adapters):
                    yield Breach(module, imported)


class SeclusionContract(Contract):
    """The contract as import-linter runs it; its options are those of :func:`breaches`."""

    type_name = "seclusion"

    # import-linter puts the parsed value in the place of each field.
    package: str = fields.StringField()  # type: ignore[assignment]  # a field stands for its value
    adapters: set[str] = fields.SetField(fields.StringField())  # type: ignore[assignment]  # as above
    world: set[str] = fields.SetField(fields.StringField())  # type: ignore[assignment]  # as above

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - import-linter passes it
        """Look for breaches."""
        found = list(breaches(graph, self.package, self.adapters, self.world))
        return ContractCheck(kept=not found, metadata={"breaches": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name every breach, and the two ways out."""
        for breach in check.metadata["breaches"]:
            output.print_error(f"{breach.importer} must not import {breach.imported}", bold=False)
        output.new_line()
        output.print_error("Take it as an argument or a port, or list the module in `adapters`.", bold=False)
