"""The check of the wheels can fail, for every reason it claims to have."""

import zipfile

import pytest

from tools import wheels

GOOD = {
    "duramen/__init__.py",
    "duramen/py.typed",
    "duramen-0.1.0.dist-info/METADATA",
    "duramen-0.1.0.dist-info/licenses/LICENSE",
}


def write(folder, package="duramen", version="0.1.0", names=GOOD):
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(names):
            archive.writestr(name, "")
    return wheels.Wheel(path, package, version)


def test_a_complete_wheel_passes(tmp_path):
    wheels.inspect(write(tmp_path))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_part_is_named(tmp_path, name):
    with pytest.raises(wheels.WheelError, match=f"lacks {name}"):
        wheels.inspect(write(tmp_path, names=GOOD - {name}))


@pytest.mark.parametrize("name", ["tests/test_x.py", "stray.py", "duramen/__pycache__/x.pyc"])
def test_what_does_not_belong_is_named(tmp_path, name):
    with pytest.raises(wheels.WheelError, match=name.split("/")[0]):
        wheels.inspect(write(tmp_path, names=GOOD | {name}))


def test_all_three_wheels_must_be_there(tmp_path):
    for package in wheels.AGENT:
        write(tmp_path, package)
    with pytest.raises(wheels.WheelError, match="must hold the wheels"):
        wheels.find(tmp_path)
    write(tmp_path, "duramen_collector")
    assert set(wheels.find(tmp_path)) == set(wheels.PACKAGES)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(wheels.WheelError, match=r"holds .*notes\.txt"):
        wheels.find(tmp_path)


def test_versions_must_agree(tmp_path):
    for package in wheels.AGENT:
        write(tmp_path, package)
    write(tmp_path, "duramen_collector", "0.2.0")
    with pytest.raises(wheels.WheelError, match="not of one version"):
        wheels.find(tmp_path)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"duramen", "extra"}, "more: extra; missing: httpx"),
        ({"duramen", "httpx", "fastapi"}, "only a collector needs: fastapi"),
        ({"duramen"}, "missing: httpx"),
    ],
)
def test_another_environment_is_refused(installed, message):
    with pytest.raises(wheels.WheelError, match=message):
        wheels.compare(installed, {"duramen", "httpx"})


def test_the_collectors_needs_are_refused_even_when_listed():
    with pytest.raises(wheels.WheelError, match="boto3"):
        wheels.compare({"boto3"}, {"boto3"})


def test_names_are_compared_as_registries_compare_them():
    assert wheels.normal("Pydantic__Core.x") == "pydantic-core-x"


@pytest.mark.process
def test_a_failing_command_says_what_it_said():
    with pytest.raises(wheels.WheelError, match="no-such-file"):
        wheels.run("ls", "/no-such-file")


def test_the_exit_code_tells(tmp_path, capsys):
    assert wheels.main([str(tmp_path), str(tmp_path), str(tmp_path / "environment")]) == 1
    assert "holds nothing" in capsys.readouterr().err
