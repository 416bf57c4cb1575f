"""What an operator decides about one tenant log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from duramen.errors import ConfigurationError
from duramen_collector.register import Configuration


@dataclass(frozen=True, slots=True)
class Retention:
    """How long objects are retained, in seconds, by retention class.

    Tiles and kept checkpoints as long as the longest.
    """

    default_s: int
    classes: Mapping[int, int] = field(default_factory=dict)

    def seconds(self, retention_class: int) -> int:
        """The retention of one class."""
        return self.classes.get(retention_class, self.default_s)

    @property
    def longest_s(self) -> int:
        """The longest of all."""
        return max(self.default_s, *self.classes.values()) if self.classes else self.default_s


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What an operator decides about one tenant log."""

    tenant: str
    configuration: Configuration
    retention: Retention
    max_bytes: int
    """About how long a pack may become."""
    fence_extra: int = 1
    """A fence is n - k + ``fence_extra`` regions: 1, or 2 to survive one region restored from an old copy."""

    def __post_init__(self) -> None:
        if self.fence_extra not in (1, 2) or self.fence > len(self.configuration.regions):
            raise ConfigurationError(
                f"a fence of {self.fence} of {len(self.configuration.regions)} regions cannot be had; "
                "raise publish.copies or add a region"
            )

    @property
    def fence(self) -> int:
        """How many regions an acquisition has to fence."""
        return len(self.configuration.regions) - self.configuration.copies + self.fence_extra
