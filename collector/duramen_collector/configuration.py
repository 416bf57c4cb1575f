"""``collector.yaml``: read, laid over by the environment, checked, turned into numbers.

Its keys are those of docs/CONTRACT.md.

Sizes become bytes, times nanoseconds, paths absolute. An unknown key is refused with the nearest known one; a
key of the contract that this release does not serve yet is refused as well, because a setting that is
silently without effect is worse than none. Every refusal is a ConfigurationError of one sentence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from duramen.errors import ConfigurationError
from duramen.names import check_tenant
from duramen.settings import demand_known, overlay, parse_duration, parse_size

DEFAULT_PATH: Final = Path("/etc/duramen/collector.yaml")
ENVIRONMENT_PREFIX: Final = "DURAMEN_COLLECTOR"
MAX_FILE_BYTES: Final = 1024 * 1024

_NOT_SERVED: Final = ("envelopes", "policy", "alerts", "witnesses", "audit")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,188}[a-z0-9])?")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _duration(key: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_duration(value, key))


def _size(key: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_size(value, key))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Region(_Section):
    """One region: its name, and where it lies."""

    name: str
    url: str

    @property
    def path(self) -> Path:
        """The directory of a ``file://`` region."""
        return Path(unquote(urlsplit(self.url).path))


class Publish(_Section):
    """When a pack is published, and how many regions must hold it."""

    copies: Annotated[int, Field(ge=1, le=64)] = 1
    interval_ns: Annotated[int, _duration("publish.interval"), Field(alias="interval")] = 10 * 10**9
    max_bytes: Annotated[int, _size("publish.max_bytes")] = 1024 * 1024


class Retention(_Section):
    """How long packs are locked, by retention class; a class that is not listed has the default."""

    default_ns: Annotated[int, _duration("retention.default"), Field(alias="default")] = (
        7 * 365 * 86_400 * 10**9
    )
    classes_ns: Annotated[
        dict[Annotated[int, Field(ge=0, le=255)], Annotated[int, _duration("retention.classes")]],
        Field(alias="classes"),
    ] = {}

    def of(self, retention_class: int) -> int:
        """The retention of a class, ns."""
        return self.classes_ns.get(retention_class, self.default_ns)


class VerificationTimes(_Section):
    """How often what is new is verified, and in which time everything is."""

    every_ns: Annotated[int, _duration("verification.every"), Field(alias="every")] = 3600 * 10**9
    full_cycle_ns: Annotated[int, _duration("verification.full_cycle"), Field(alias="full_cycle")] = (
        30 * 86_400 * 10**9
    )


class Configuration(_Section):
    """The whole file. ``names`` are further DNS names and addresses for the server's certificate."""

    name: str
    listen: str = "127.0.0.1:8443"
    names: tuple[str, ...] = ()
    state_dir: Path
    database: str = ""
    regions: tuple[Region, ...]
    publish: Publish = Publish()
    retention: Retention = Retention()
    verification: VerificationTimes = VerificationTimes()

    @property
    def listen_host(self) -> str:
        """The address to listen on, without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def listen_port(self) -> int:
        """The port to listen on; 0 lets the kernel choose."""
        return int(self.listen.rpartition(":")[2])

    @property
    def database_path(self) -> Path:
        """The file of the SQLite database."""
        if not self.database:
            return self.state_dir / "collector.db"
        return Path("/" + self.database.removeprefix("sqlite:///").lstrip("/"))

    def origin(self, tenant: str) -> str:
        """The origin of a tenant's log."""
        return f"{self.name}/{check_tenant(tenant)}"


def load_configuration(path: Path, environment: Mapping[str, str]) -> Configuration:
    """The configuration in the file ``path``, laid over by ``environment``; ConfigurationError otherwise."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no configuration at {path}; duramen-collector init writes one"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        return parse_configuration(data, environment)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def parse_configuration(data: bytes, environment: Mapping[str, str]) -> Configuration:
    """The configuration in the bytes of a YAML file; ConfigurationError of one sentence otherwise."""
    tree = _read_yaml(data, "the file")
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigurationError("a configuration is a YAML mapping of keys to values")
    tree = overlay(tree, environment, ENVIRONMENT_PREFIX, lambda what, text: _read_yaml(text.encode(), what))
    _check_keys(tree)
    try:
        configuration = Configuration.model_validate(_tuples(tree))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{key or 'the configuration'}: {_sentence(first['type'], first['msg'])}"
        ) from error
    _check_values(configuration)
    return configuration


def _read_yaml(data: bytes, what: str) -> object:
    try:
        return yaml.load(data, Loader=_Loader)  # noqa: S506  # _Loader is SafeLoader without duplicate keys
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{what} is not YAML{where}: {getattr(error, 'problem', error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML without keys that stand twice and without aliases (a few bytes of which fill a memory)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not used here", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key stands twice in one section", node.start_mark
            )
        return mapping


def _check_keys(tree: Mapping[str, object]) -> None:
    for key in _NOT_SERVED:
        if key in tree:
            raise ConfigurationError(
                f"{key} is not served by this release yet; remove it from the configuration"
            )
    demand_known(tree, Configuration.model_fields)
    for name, section in (
        ("publish", Publish),
        ("retention", Retention),
        ("verification", VerificationTimes),
    ):
        inner = tree.get(name, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{name} is a section with keys of its own")
        demand_known(inner, [field.alias or key for key, field in section.model_fields.items()], name)
    regions = tree.get("regions")
    if not isinstance(regions, list) or not all(isinstance(item, dict) for item in regions):
        raise ConfigurationError("regions is a list such as [{name: eu, url: file:///srv/eu}]")
    for number, item in enumerate(regions):
        demand_known(item, Region.model_fields, f"regions.{number}")


def _tuples(tree: Mapping[str, object]) -> dict[str, object]:
    """The tree as strict validation wants it: lists as tuples, the state directory as a path."""
    result: dict[str, object] = {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items()}
    if isinstance(result.get("state_dir"), str):
        result["state_dir"] = Path(str(result["state_dir"]))
    return result


def _sentence(kind: str, message: str) -> str:
    return "this key is needed" if kind == "missing" else message[:1].lower() + message[1:]


def _check_values(configuration: Configuration) -> None:
    if not _NAME.fullmatch(configuration.name):
        raise ConfigurationError(
            f"name is {configuration.name!r}; it is a host name in lower case, such as logs.example.com"
        )
    if not configuration.state_dir.is_absolute():
        raise ConfigurationError("state_dir is an absolute path")
    _check_listen(configuration)
    if configuration.database and not configuration.database.startswith("sqlite:///"):
        raise ConfigurationError("database is sqlite:///PATH; this release serves no other database yet")
    for name in configuration.names:
        if not _HOST.fullmatch(name) and not _is_address(name):
            raise ConfigurationError(f"names holds {name!r}, which is neither a host name nor an address")
    _check_regions(configuration)
    if configuration.publish.max_bytes > 32 * 1024 * 1024 or configuration.publish.max_bytes < 1:
        raise ConfigurationError("publish.max_bytes is between 1B and 32MiB")
    if configuration.publish.interval_ns < 1:
        raise ConfigurationError("publish.interval is longer than zero")


def _check_listen(configuration: Configuration) -> None:
    host, _, port = configuration.listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535 or not host:
        raise ConfigurationError(
            f"listen is {configuration.listen!r}; write it like 0.0.0.0:8443 or [::]:8443"
        )
    if not _HOST.fullmatch(host) and not _is_address(host.strip("[]")):
        raise ConfigurationError(f"listen names {host!r}, which is neither a host name nor an address")


def _check_regions(configuration: Configuration) -> None:
    regions = configuration.regions
    names, urls = {item.name for item in regions}, {item.url.rstrip("/") for item in regions}
    if not regions or len(names) != len(regions) or len(urls) != len(regions):
        raise ConfigurationError("regions names at least one region, each with a name and a url of its own")
    for item in regions:
        if not _REGION.fullmatch(item.name):
            raise ConfigurationError(f"the region name {item.name!r} is not made of a-z, 0-9 and '-'")
        try:
            parts = urlsplit(item.url)
        except ValueError as error:
            raise ConfigurationError(f"the url of region {item.name} is no url: {error}") from error
        if parts.scheme in {"s3", "gs"}:
            raise ConfigurationError(
                f"region {item.name} is of {parts.scheme}://, which this release does not serve yet; use file://"
            )
        if (
            parts.scheme != "file"
            or parts.netloc
            or not item.path.is_absolute()
            or parts.query
            or parts.fragment
        ):
            raise ConfigurationError(
                f"the url of region {item.name} is written like file:///srv/duramen/{item.name}"
            )
    if configuration.publish.copies > len(regions):
        raise ConfigurationError(
            f"publish.copies is {configuration.publish.copies}, but there are {len(regions)} regions"
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
