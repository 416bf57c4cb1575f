"""What lies in the agent's state directory besides seed and spool; all of it is private (0600)."""

from __future__ import annotations

from typing import Final

KEY_FILE: Final = "agent.key"
"""The private key of the agent's certificate, PEM."""
REQUEST_FILE: Final = "agent.csr"
"""The certificate signing request of an enrolment that has not been answered yet."""
CERTIFICATE_FILE: Final = "agent.pem"
"""The agent's certificate with its chain; that it is there means: enrolled."""
STATUS_SOCKET: Final = "status.sock"
DEFAULT_CONFIGURATION: Final = "/etc/duramen/agent.yaml"
DEFAULT_STATE_DIR: Final = "/var/lib/duramen"
