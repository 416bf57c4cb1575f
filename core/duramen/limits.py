"""Every bound of the format in one table; parsers check them before they allocate.

Sizes are in bytes unless a name says otherwise. Changing one of these changes the format.
"""

from __future__ import annotations

from typing import Final

STATEMENT_MAX_BYTES: Final = 65_535
"""A statement is one tlog-tiles entry, whose length is a uint16."""
NOTICE_MAX_BYTES: Final = 16 * 1024
"""The JSON header of a notice."""
BODY_MAX_BYTES: Final = 8 * 1024 * 1024
"""A block's sealed body, as it travels in a frame."""
PAYLOAD_MAX_BYTES: Final = 16 * 1024 * 1024
"""A block's payload after decompression."""
MANIFEST_MAX_BYTES: Final = 4 * 1024 * 1024
"""The JSON Lines manifest at the start of a payload."""
RECORD_MAX_BYTES: Final = 1024 * 1024
"""A longer line is sealed as continued records."""
RATCHET_MAX_STEPS: Final = 65_535
"""How often one data key may be ratcheted."""
DATA_KEY_MAX_AGE_NS: Final = 24 * 3600 * 10**9
"""How long one data key may be used."""
RECIPIENTS_MAX: Final = 64
"""Readers per data key."""
PACK_MAX_BYTES: Final = 64 * 1024 * 1024
"""A pack, frames included."""
NOTE_MAX_BYTES: Final = 128 * 1024
"""A signed note with its signatures."""
NOTE_MAX_SIGNATURES: Final = 32
"""Signature lines in a note; C2SP signed-note demands at least 16."""
BUNDLE_MAX_BYTES: Final = 1024 * 1024 * 1024
"""An evidence bundle, unpacked."""
