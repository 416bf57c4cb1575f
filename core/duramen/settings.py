"""What the agent's and the collector's configuration share: sizes, times, unknown keys, the environment.

Pure: the file's text, its YAML and the environment come from the caller. Every refusal is a
ConfigurationError of one sentence that names the key as it is written in the file (``spool.max_bytes``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from duramen.errors import ConfigurationError

SIZE_LIMIT: Final = 2**63
DURATION_LIMIT_NS: Final = 2**63

_SIZE: Final = re.compile(r"([0-9]{1,19})(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_SIZE_UNITS: Final = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DURATION: Final = re.compile(r"([0-9]{1,19})(ms|s|m|h|d|w|y)", re.ASCII)
_SECOND_NS: Final = 10**9
_DAY_NS: Final = 86_400 * _SECOND_NS
_DURATION_UNITS: Final = {
    "ms": 10**6,
    "s": _SECOND_NS,
    "m": 60 * _SECOND_NS,
    "h": 3600 * _SECOND_NS,
    "d": _DAY_NS,
    "w": 7 * _DAY_NS,
    "y": 365 * _DAY_NS,
}


def parse_size(value: object, key: str) -> int:
    """Bytes from ``512MiB`` (B, KiB, MiB, GiB, TiB) or a bare number of bytes."""
    found = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
    size = int(found[1]) * _SIZE_UNITS[found[2]] if found else SIZE_LIMIT
    if size >= SIZE_LIMIT:
        raise ConfigurationError(f"{key} is {value!r}, which is not a size; write it like 512MiB or 2GiB")
    return size


def parse_duration(value: object, key: str) -> int:
    """Nanoseconds from ``30s`` (ms, s, m, h, d, w, y of 365 days).

    A bare number has no unit and is refused.
    """
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    duration_ns = int(found[1]) * _DURATION_UNITS[found[2]] if found else DURATION_LIMIT_NS
    if duration_ns >= DURATION_LIMIT_NS:
        raise ConfigurationError(f"{key} is {value!r}, which is not a time; write it like 500ms, 30s or 7d")
    return duration_ns


def nearest_key_message(key: str, known: Iterable[str], where: str = "") -> str:
    """The sentence that refuses the unknown ``key`` of section ``where`` and names the nearest known one."""
    names = sorted(known)
    path = f"{where}.{key}" if where else key
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if near:
        return f"there is no key {path}; did you mean {f'{where}.{near[0]}' if where else near[0]}?"
    return f"there is no key {path}; known here: {', '.join(names)}"


def demand_known(given: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """ConfigurationError for the first of ``given`` that is not among ``known``."""
    names = frozenset(known)
    for key in given:
        if key not in names:
            raise ConfigurationError(nearest_key_message(str(key), names, where))


def overlay(
    tree: Mapping[str, object],
    environment: Mapping[str, str],
    prefix: str,
    parse: Callable[[str, str], object],
) -> dict[str, object]:
    """``tree`` with every ``PREFIX__X__Y`` of the environment put at ``x.y``, its text read by ``parse``.

    ``prefix`` is ``DURAMEN_AGENT`` or ``DURAMEN_COLLECTOR``. ``parse`` reads one YAML value: it is given what
    to call the text in an error, and the text. A variable that descends into something that is no section is
    refused; whether the key is known is the reader's question.
    """
    result = _copied(tree)
    for name in sorted(environment):
        if not name.startswith(prefix + "__"):
            continue
        *sections, last = name.removeprefix(prefix + "__").lower().split("__")
        node = result
        for section in sections:
            inner = node.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(f"{name} sets a key below {section}, which is not a section")
            node = inner
        if not all((*sections, last)):
            raise ConfigurationError(f"{name} names no key; write it like {prefix}__SECTION__KEY")
        node[last] = parse(f"the environment variable {name}", environment[name])
    return result


def _copied(tree: Mapping[str, object]) -> dict[str, object]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
