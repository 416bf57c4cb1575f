"""The ports are shapes only: annotated, documented, without behaviour that an adapter could inherit."""

import dataclasses
import inspect
import typing

import pytest

from duramen import ports

CLASSES = [kind for _, kind in inspect.getmembers(ports, inspect.isclass)]
PROTOCOLS = [kind for kind in CLASSES if typing.Protocol in kind.__bases__]


def methods(port):
    return {
        name: member for name, member in vars(port).items() if inspect.isfunction(member) and name[0] != "_"
    }


@pytest.mark.parametrize("port", PROTOCOLS)
def test_a_port_is_a_protocol_of_documented_methods(port):
    assert methods(port)
    for name, method in methods(port).items():
        hints = typing.get_type_hints(method)
        parameters = list(inspect.signature(method).parameters)[1:]
        assert method.__doc__, name
        assert set(parameters) | {"return"} == set(hints), name


@pytest.mark.parametrize("port", PROTOCOLS)
def test_a_port_cannot_be_used_as_an_adapter(port):
    with pytest.raises(TypeError):
        port()


def test_the_world_has_its_doors():
    assert {ports.Clock, ports.Random, ports.ReadableFile, ports.Disk} <= set(PROTOCOLS)


def test_what_identifies_a_file_does_not_change():
    stat = ports.FileStat(device=1, inode=2, size=3, modified_ns=4, is_regular=True)
    assert not hasattr(stat, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        stat.size = 5
    assert dataclasses.replace(stat, size=5) != stat
