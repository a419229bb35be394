"""A fault of the program itself has an exit code that nothing else has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_unlearn.cli import listing, main


def test_what_nobody_expected_ends_with_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(*_: object) -> int:
        raise KeyError("nobody expected this")

    command = next(each for each in listing.COMMANDS if each.name == "list")
    monkeypatch.setattr(main, "_commands", lambda: [type(command)("list", "", command.add_arguments, broken)])
    assert main.main(["list", "losses"]) == main.OWN_FAULT == 70
    told = capsys.readouterr().err
    assert "KeyError: 'nobody expected this'" in told and "a fault of hf-unlearn itself" in told


def test_the_process_ends_with_70_too() -> None:
    """Also where the command is run as a module, as under a launcher."""
    code = (
        "import runpy, sys, hf_unlearn.cli.main as main\n"
        "main._quiet_libraries = lambda: 1 / 0\n"
        "sys.argv = ['hf-unlearn', 'list', 'losses']\n"
        "runpy.run_module('hf_unlearn', run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 70 and "ZeroDivisionError" in ended.stderr
