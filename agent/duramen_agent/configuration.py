"""The agent's configuration: ``/etc/duramen/agent.yaml``, checked to the last key before anything is opened.

Guarantees: an unknown key is an error that names the nearest known one; every error is one sentence with
the key's path; a key that this release does not serve is refused, never ignored. Every key is also an
environment variable, ``DURAMEN_AGENT__SPOOL__MAX_BYTES`` for ``spool.max_bytes``, read as YAML, and
stronger than the file. Sizes are written as ``512MiB``, times as ``30s``. Nothing here reads keys or
certificates: only their names are in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from duramen import canonical
from duramen.body import EVENT_STREAM
from duramen.errors import ConfigurationError, FormatError
from duramen.names import Digest, check_agent, check_tenant
from duramen.settings import nearest_key_message, overlay, parse_duration, parse_size

ENVIRONMENT_PREFIX: Final = "DURAMEN_AGENT"
MAX_FILE_BYTES: Final = 1024 * 1024
_IT: Final = "it"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


def _setting(parse: Callable[[object, str], int]) -> BeforeValidator:
    """A validator of what ``parse`` reads; :func:`_sentence` puts the key in the place of "it"."""

    def validate(value: object) -> int:
        try:
            return parse(value, _IT)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _named(value: str) -> str:
    if value == EVENT_STREAM or not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: 1 to 128 letters, digits, '.', '_', '-' and '/', "
            "beginning with a letter or digit"
        )
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"{value!r} is not an absolute path")
    return value


def _tenant(value: str) -> str:
    try:
        return check_tenant(value)
    except FormatError as error:
        raise ValueError(str(error)) from error


def _agent(value: str) -> str:
    try:
        return check_agent(value)
    except FormatError as error:
        raise ValueError(str(error)) from error


def _url(value: str) -> str:
    if not re.fullmatch(r"https://[A-Za-z0-9.\[\]:_-]+/?", value):
        raise ValueError(f"{value!r} is not a collector's address; write it as https://c1.example.com:8443")
    return value.rstrip("/")


def _unsupported(what: str) -> BeforeValidator:
    def refuse(_: object) -> object:
        raise ValueError(f"{what} is not supported in this release; remove the key")

    return BeforeValidator(refuse)


Size = Annotated[int, _setting(parse_size), Field(lt=2**62)]
"""Bytes."""
Nanoseconds = Annotated[int, _setting(parse_duration), Field(lt=2**62)]
Name = Annotated[str, AfterValidator(_named)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfiguration(_Section):
    """Files that become one stream."""

    stream: Name = Field(description="Name under which the lines are found again.")
    journald: Annotated[None, _unsupported("reading the journal")] = Field(
        default=None, description="Not supported in this release."
    )
    paths: tuple[AbsolutePath, ...] = Field(
        min_length=1, max_length=1024, description="Shell patterns; ** crosses directories."
    )
    exclude: tuple[str, ...] = Field(
        default=(), max_length=1024, description="Patterns of paths, or of file names if without a slash."
    )
    labels: Annotated[dict[Name, str], Field(max_length=32)] = Field(
        default_factory=dict, description="Sealed with every run."
    )
    shred_group: Name = Field(default="default", description="What can be erased together.")
    retention_class: int = Field(default=0, ge=0, le=255, strict=True, description="The collector's class.")

    @field_validator("labels")
    @classmethod
    def _short(cls, labels: dict[str, str]) -> dict[str, str]:
        if any(len(value) > 1024 for value in labels.values()):
            raise ValueError("a label has at most 1,024 characters")
        return labels


class SealConfiguration(_Section):
    """How soon lines are sealed."""

    max_delay: Nanoseconds = Field(
        default=5 * 10**9, description="How long a line may wait in a sustained flow.", le=3600 * 10**9
    )
    burst: int = Field(
        default=50,
        ge=1,
        le=100_000,
        strict=True,
        description="Blocks that may be sealed at once after quiet.",
    )


class ReceiptsConfiguration(_Section):
    """What a receipt must say, and how long blocks stay after it."""

    keep: Nanoseconds = Field(default=0, description="How long published blocks stay in the spool.")
    policy: AbsolutePath | None = Field(default=None, description="A tlog-policy file.")


class SpoolConfiguration(_Section):
    """How much of the host's disk the agent may use."""

    max_bytes: Size = Field(default=2 * 2**30, ge=16 * 2**20, description="Largest size of the spool.")
    min_free_bytes: Size = Field(default=512 * 2**20, description="Left free on the spool's disk.")
    hold_bytes: Size = Field(
        default=2**30, description="Unread bytes of rotated files held open while reading is stopped."
    )
    on_full: Literal["block"] = Field(default="block", description="What to do when the spool is full.")

    @field_validator("on_full", mode="before")
    @classmethod
    def _block_only(cls, value: object) -> object:
        if value == "drop_oldest":
            raise ValueError("drop_oldest is not supported in this release; write block")
        return value


class AgentConfiguration(_Section):
    """The whole file."""

    tenant: Annotated[str, AfterValidator(_tenant)]
    agent: Annotated[str, AfterValidator(_agent)]
    collectors: tuple[Annotated[str, AfterValidator(_url)], ...] = Field(
        min_length=1, max_length=16, description="Base addresses, in order of preference."
    )
    ca: AbsolutePath = Field(description="The collectors' certificate authority, PEM.")
    log_keys: tuple[str, str] = Field(
        description="Pinned verifier keys of the tenant log: Ed25519 and ML-DSA-44."
    )
    recipients: tuple[AbsolutePath, ...] = Field(
        min_length=1, max_length=64, description="Files with the public keys of who can read."
    )
    state_dir: AbsolutePath = "/var/lib/duramen"
    sources: tuple[SourceConfiguration, ...] = Field(min_length=1, max_length=1024)
    seal: SealConfiguration = SealConfiguration()
    heartbeat: Nanoseconds = Field(default=10 * 10**9, ge=10**9, le=3600 * 10**9)
    receipts: ReceiptsConfiguration = ReceiptsConfiguration()
    spool: SpoolConfiguration = SpoolConfiguration()

    @field_validator("sources")
    @classmethod
    def _distinct(cls, sources: tuple[SourceConfiguration, ...]) -> tuple[SourceConfiguration, ...]:
        streams = [source.stream for source in sources]
        for stream in streams:
            if streams.count(stream) > 1:
                raise ValueError(f"the stream {stream} is there twice; list all its paths in one source")
        return sources

    @property
    def config_sha256(self) -> Digest:
        """SHA-256 of the effective configuration.

        Every value, defaults and environment included, in canonical JSON.
        """
        return Digest(hashlib.sha256(canonical.encode(_narrow(self.model_dump(mode="json")))).digest())


def load_configuration(path: str, environ: Mapping[str, str]) -> AgentConfiguration:
    """The configuration in the file ``path`` with what ``environ`` overrides.

    ConfigurationError in one sentence.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error.strerror}") from error
    return parse_configuration(text, environ, path)


def parse_configuration(text: bytes, environ: Mapping[str, str], path: str) -> AgentConfiguration:
    """The configuration in ``text``, which came from ``path``."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigurationError(f"the configuration {path} has more than {MAX_FILE_BYTES} bytes")
    value = _yaml(text, path)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} does not hold keys and values at its top")
    value = overlay(value, environ, ENVIRONMENT_PREFIX, lambda what, text: _yaml(text.encode(), what))
    try:
        return AgentConfiguration.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_sentence(error)}") from error


class _Loader(yaml.SafeLoader):
    """Safe YAML whose keys are text, each there once."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is not text", node.start_mark
            )
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is there twice", node.start_mark
            )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _yaml(text: bytes, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ConfigurationError(
            f"{where}{line} is not valid YAML: {' '.join(str(problem).split())}"
        ) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = _where(first["loc"])
    if first["type"] == "extra_forbidden":
        return nearest_key_message(str(first["loc"][-1]), _known(first["loc"]), _where(first["loc"][:-1]))
    if first["type"] == "missing":
        return f"the key {where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith(f"{_IT} is "):
        return f"{where}{message.removeprefix(_IT)}"
    return f"{where}: {message[0].lower() + message[1:] if not message.startswith(chr(39)) else message}"


def _where(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _known(location: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "sources": SourceConfiguration,
        "seal": SealConfiguration,
        "receipts": ReceiptsConfiguration,
        "spool": SpoolConfiguration,
    }
    model = sections.get(str(location[0]), AgentConfiguration) if len(location) > 1 else AgentConfiguration
    return sorted(model.model_fields)


def _narrow(value: Any) -> canonical.Json:
    """``value`` with integers past 2**53 as canonical JSON writes them."""
    if isinstance(value, dict):
        return {str(key): _narrow(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_narrow(item) for item in value]
    return canonical.wide(value) if isinstance(value, int) and not isinstance(value, bool) else value
