"""What the tree must not say, and what must have a reason beside it."""

import io
import re
import tokenize

import pytest

from tests.repo.tree import ROOT, tracked_files, tracked_texts

# A letter of each stands in brackets, so that this file does not find itself.
REGISTRIES = re.compile(r"py[p]i\.org|python[h]osted\.org|registry\.[n]pmjs|proxy\.[g]olang|files\.[p]ython")
ADDRESSES = re.compile(r"--(extra-)?index-[u]rl|--find-[l]inks|--trusted-[h]ost|UV_[I]NDEX|PIP_[IFE][A-Z]+_")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(wor[k]|far[m]|roo[t]|home/[a-z]+|tmp/[w])/")
REASON = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z0-9, -]+\])\s+(?:#|-+|—)\s*\w.{5,}")
WAIVER = re.compile(r"#\s*(?:noqa|type:\s*ignore)")


def findings(pattern):
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_tree_was_read():
    assert {"README.md", "pyproject.toml", "core/duramen/wire.py"} <= set(tracked_texts())


@pytest.mark.parametrize("pattern", [REGISTRIES, ADDRESSES], ids=["registries", "addresses"])
def test_no_package_registry_is_named(pattern):
    assert findings(pattern) == []


def test_no_path_of_a_developers_machine():
    assert findings(MACHINE_PATHS) == []


def test_nothing_generated_is_tracked():
    names = {path.relative_to(ROOT).as_posix() for path in tracked_files()}
    assert [
        n
        for n in names
        if n.endswith((".pyc", ".egg-info", "uv.lock", ".whl")) or n.startswith(("build/", "dist/"))
    ] == []


def waivers_without_reason(source):
    comments = (
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    )
    return [c.start[0] for c in comments if WAIVER.search(c.string) and not REASON.search(c.string)]


def test_every_waiver_has_a_reason():
    sources = {name: text for name, text in tracked_texts().items() if name.endswith(".py")}
    bad = {name: lines for name, text in sources.items() if (lines := waivers_without_reason(text))}
    assert bad == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = 1  # noqa: E501 - a URL can't be broken\n", []),
        ("x = 1  # type: ignore[attr-defined]  # the stubs lag behind\n", []),
        ("x = 1  # noqa: E501\n", [1]),
        ("x = 1\ny = 2  # noqa\n", [2]),
        ("x = 1  # type: ignore\n", [1]),
        ("x = 1  # type: ignore[attr-defined]\n", [1]),
        ("x = '# noqa'\n", []),
    ],
)
def test_the_waiver_check_can_fail(source, lines):
    assert waivers_without_reason(source) == lines


def ignores():
    """Lines of the ignore lists of ruff in the root pyproject.toml."""
    inside = False
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if inside and line.startswith("]"):
            inside = False
        if inside:
            yield line.strip()
        inside = inside or line == "ignore = [" or re.fullmatch(r'"[a-z*/]+" = \[', line) is not None


def test_every_ignored_rule_has_a_reason():
    lines = list(ignores())
    assert len(lines) > 20
    assert [line for line in lines if not re.fullmatch(r'"[A-Z]+[0-9]*",\s+# \w.{9,}', line)] == []
