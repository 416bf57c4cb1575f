"""The error tree: one base, one exit code and status each, nothing that a check's exit codes would hide."""

import inspect
import re

from duramen import errors, limits


def kinds():
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.DuramenError)
    ]


def test_the_docstring_shows_every_error_with_its_exit_code():
    shown = {
        name: int(code) for name, code in re.findall(r"── (\w+) .*?(\d+)$", errors.__doc__, re.MULTILINE)
    }
    assert shown == {kind.__name__: kind.exit_code for kind in kinds() if kind is not errors.DuramenError}


def test_no_error_exits_like_a_healthy_or_degraded_check():
    assert {kind.exit_code for kind in kinds()}.isdisjoint({0, 1, 3})
    assert [kind for kind in kinds() if kind.exit_code == 2] == [errors.IntegrityError]


def test_every_error_becomes_an_http_error():
    assert all(400 <= kind.http_status <= 599 for kind in kinds())


def test_an_integrity_error_carries_its_finding():
    error = errors.IntegrityError(
        "block 7 was not signed by the key announced in block 6", code="signature_invalid"
    )
    assert error.code == "signature_invalid"
    assert str(error).startswith("block 7")


def test_limits_are_positive_and_nest():
    table = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert table
    assert all(isinstance(value, int) and value > 0 for value in table.values())
    assert limits.RECORD_MAX_BYTES <= limits.PAYLOAD_MAX_BYTES
    assert limits.MANIFEST_MAX_BYTES < limits.PAYLOAD_MAX_BYTES
    assert limits.NOTICE_MAX_BYTES <= limits.STATEMENT_MAX_BYTES
    assert limits.BODY_MAX_BYTES < limits.PACK_MAX_BYTES < limits.BUNDLE_MAX_BYTES
