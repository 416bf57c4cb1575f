"""Exit codes and error sentences of the shared command-line wrapper."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from duramen.commandline import run
from duramen.errors import ConfigurationError, IntegrityError

app = typer.Typer(no_args_is_help=False)


@app.command()
def code(number: int) -> int:
    return number


@app.command()
def fail(kind: str) -> None:
    if kind == "configuration":
        raise ConfigurationError("the file is wrong; mend it")
    if kind == "integrity":
        raise IntegrityError("two histories", code="fork")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "pipe":
        raise BrokenPipeError
    if kind == "exit":
        raise typer.Exit(3)
    if kind == "system-exit":
        raise SystemExit(9)
    raise RuntimeError(kind)


@pytest.mark.parametrize(
    ("argv", "expected", "stderr"),
    [
        (["code", "0"], 0, ""),
        (["code", "2"], 2, ""),
        (["fail", "configuration"], 78, "error: the file is wrong; mend it\n"),
        (["fail", "integrity"], 2, "error: two histories\n"),
        (["fail", "interrupt"], 130, ""),
        (["fail", "exit"], 3, ""),
        (["--help"], 0, ""),
    ],
)
def test_exit_codes(argv, expected, stderr, capsys):
    assert run(app, argv, "prog") == expected
    assert capsys.readouterr().err == stderr


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["code"], ["code", "x"], ["code", "1", "2"], ["code", "--x"]]
)
def test_wrong_usage_is_64_with_one_line(argv, capsys):
    assert run(app, argv, "prog") == 64
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_group_that_shows_help_without_arguments_is_still_64(capsys):
    helpful = typer.Typer(no_args_is_help=True)
    helpful.command()(code)
    helpful.command()(fail)
    assert run(helpful, [], "prog") == 64
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err


def test_defects_keep_their_traceback():
    with pytest.raises(RuntimeError):
        run(app, ["fail", "other"], "prog")
    with pytest.raises(SystemExit):
        run(app, ["fail", "system-exit"], "prog")


def test_broken_pipe_without_a_real_stdout(capsys):
    assert run(app, ["fail", "pipe"], "prog") == 141


def test_a_reader_that_leaves_is_no_error(tmp_path):
    script = tmp_path / "flood.py"
    script.write_text(
        "import sys, typer\nfrom duramen.commandline import run\napp = typer.Typer()\n"
        "@app.command()\ndef flood() -> None:\n    for _ in range(100000): print('line')\n"
        "sys.exit(run(app, []))\n"
    )
    core = Path(__file__).parents[2] / "core"
    for reads in (0, 5):
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": str(core)},
        )
        process.stdout.read(reads)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(20) == 141
