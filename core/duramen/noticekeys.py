"""The keys that sign a log's notices, as the log itself introduces them.

The first notice has the type ``key`` and signs itself; its field ``public`` (64 hex digits) is the Ed25519
key, and later notices of that type, signed by a known key, add others. The first one is believed because
the signed log begins with it; whoever knows the key from elsewhere passes it in.
"""

from __future__ import annotations

from duramen.canonical import Fields
from duramen.ed25519 import check_public
from duramen.errors import FormatError, IntegrityError
from duramen.lineage import Report
from duramen.statement import Notice, notice_key_id, verify_notice
from duramen.verdict import Code


class NoticeKeys:
    """The keys under which notices verify."""

    def __init__(self, report: Report, public: bytes | None) -> None:
        self._report = report
        self._keys = {} if public is None else {notice_key_id(public): public}

    def take(self, leaf: int, notice: Notice) -> bool:
        """Judge a notice; whether it may be relied on."""
        introduced = None
        if notice.type == "key":
            try:
                introduced = Fields(notice.fields, "a key notice").hexed("public", 32)
                check_public(introduced)
            except FormatError as error:
                self._report(Code.HEADER_CORRUPT, str(error), leaf=leaf)
                return False
            if not self._keys:
                self._keys[notice_key_id(introduced)] = introduced
        public = self._keys.get(notice.key_id)
        if public is None:
            detail = (
                f"the notice is signed by the key {notice.key_id.hex()}, which the log has not introduced"
            )
            self._report(Code.SIGNATURE_INVALID, detail, leaf=leaf)
            return False
        try:
            verify_notice(notice, public)
        except IntegrityError as error:
            self._report(Code(error.code), str(error), leaf=leaf)
            return False
        if introduced is not None:
            self._keys[notice_key_id(introduced)] = introduced
        return True
