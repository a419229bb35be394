"""What the main process does alone: the others wait for it, and learn of it when it gives up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.runtime.processes import on_main_process

SCRIPT = """
import sys, time
from pathlib import Path
from hf_unlearn.errors import RequestError
from hf_unlearn.runtime.processes import leave_group, on_main_process, rank

folder = Path(sys.argv[1])

def work():
    time.sleep(0.5)
    (folder / f"done-{rank()}").touch()

def give_up():
    raise RequestError("retain.jsonl: there is nothing in it")

on_main_process(work)
seen = sorted(path.name for path in folder.glob("done-*"))
try:
    on_main_process(give_up)
except RequestError as error:
    (folder / f"said-{rank()}").write_text(f"{seen} {error}")
leave_group()
"""


def test_two_processes_go_on_or_give_up_together(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run([*command, str(script), str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr[-3000:]
    said = {path.name: path.read_text() for path in tmp_path.glob("said-*")}
    assert said == dict.fromkeys(("said-0", "said-1"), "['done-0'] retain.jsonl: there is nothing in it")


@pytest.mark.parametrize(
    "error", [RequestError("no rows"), EnvironmentFailure("disk full"), MissingExtraError("GPTQ", "gptqmodel", "gptq")]
)
def test_alone_the_error_is_the_same_one(error):
    def give_up():
        raise error

    with pytest.raises(type(error)) as found:
        on_main_process(give_up)
    assert found.value is error


def test_what_is_no_message_to_a_user_is_not_caught():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_main_process(fail)
