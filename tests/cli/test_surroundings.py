"""Output that is full or closed, disks that cannot be written, no file descriptors: exit code 3 and one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from refusals import refused_writes
from test_output_folder import wait_until

from hf_unlearn.cli import main as program
from hf_unlearn.cli.command import Command
from hf_unlearn.runtime.streams import open_standard_streams

LISTING = "list losses"


def shell(command: str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a shell's line."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m hf_unlearn {command}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output(unbuffered: str):
    """What only prints has nothing to continue."""
    for command in ("--help", "list losses"):
        code, errors = shell(f"{command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
        assert code == 3
        assert errors == "hf-unlearn: standard output cannot be written (No space left on device)\n"


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (">&-", "hf-unlearn: standard output is closed: send it to a file, or to /dev/null\n"),
        (">&- <&-", "hf-unlearn: standard output is closed: send it to a file, or to /dev/null\n"),
        (">&- 2>&- <&-", ""),
    ],
)
def test_a_closed_output(streams: str, said: str):
    assert shell(f"{LISTING} {streams}") == (3, said)


def test_errors_that_nobody_reads():
    assert shell("no-such-command 2>&-") == (2, "")
    assert shell("--help 2>&-") == (0, "")


def test_files_do_not_get_the_numbers_of_closed_streams():
    """Or what a library prints would be written into them."""
    code = (
        "import os, sys\n"
        "from hf_unlearn.runtime.streams import open_standard_streams\n"
        "assert open_standard_streams() is (sys.argv[1] == 'closed')\n"
        "sys.exit(os.open(os.devnull, os.O_RDONLY) + 10)\n"
    )
    for streams, word in (("<&- >&- 2>&-", "closed"), (">&-", "closed"), ("2>&-", "open"), ("", "open")):
        done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" {word} {streams}'], check=False)
        assert done.returncode >= 13, streams
    assert open_standard_streams() is False


def command_that(monkeypatch: pytest.MonkeyPatch, does) -> None:
    """Puts a command called ``try`` into the command line."""
    monkeypatch.setattr(program, "_commands", lambda: [Command("try", "", lambda parser: None, does)])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x"), "the file system is read-only (/x): fix that"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "no permission to read or write (/x): fix that"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open: raise the limit (ulimit -n)"),
        (ImportError("/lib/x.so: cannot open shared object file: Too many open files"), "too many files are open"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"), "a file is where a folder should be (/x/y)"),
        (FileExistsError(errno.EEXIST, "File exists", "/x"), "something is there already (/x)"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "a folder is where a file should be (/x)"),
        (OSError(errno.ESTALE, "Stale file handle", "/x"), "the file server no longer knows a file (/x)"),
        (OSError(errno.EBADF, "Bad file descriptor"), "a file was closed from outside: fix that"),
        (OSError(errno.EIO, "Input/output error", "/x"), "the disk reports an input/output error (/x): fix that"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_machine_refuses_any_command(error: Exception, said: str, refused, monkeypatch):
    def fail(arguments: object) -> int:
        raise error

    command_that(monkeypatch, fail)
    sentence = refused(3, "try")
    assert sentence.startswith(said) and sentence.endswith(", then run the same command again")


def test_what_may_be_a_fault_of_the_program_is_told_as_one(monkeypatch, capsys):
    def fail(arguments: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")

    command_that(monkeypatch, fail)
    assert program.main(["try"]) == 70
    assert "this is a fault of hf-unlearn itself" in capsys.readouterr().err


def test_no_folder_for_temporary_files(refused, monkeypatch):
    def fail(arguments: object) -> int:
        tempfile.mkdtemp()
        return 0

    command_that(monkeypatch, fail)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    sentence = refused(3, "try")
    assert sentence.startswith("no folder for temporary files can be written: set TMPDIR to a folder with room")


def test_no_file_descriptors_left(refused, monkeypatch):
    resource = pytest.importorskip("resource")
    held: list[int] = []

    def fail(arguments: object) -> int:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))

    command_that(monkeypatch, fail)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, before[1]))
    try:
        sentence = refused(3, "try")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in held:
            os.close(number)
    assert sentence.startswith("too many files are open (/dev/null): raise the limit (ulimit -n)")


@pytest.mark.parametrize(("number", "what"), [(errno.EROFS, "file system is read-only"), (errno.EACCES, "permission")])
def test_a_run_where_nothing_can_be_written(number: int, what: str, recipe: Path, refused, tmp_path: Path):
    with refused_writes(number, tmp_path / "run"):
        sentence = refused(3, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0)
    assert what in sentence and str(tmp_path / "run") in sentence
    assert not (tmp_path / "run").exists()


def test_a_cache_path_that_is_a_file(recipe: Path, refused, tmp_path: Path, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("HF_UNLEARN_CACHE", str(tmp_path / "cache"))
    sentence = refused(3, "run", recipe, "--output-dir", tmp_path / "run", "--workers", 0)
    assert sentence.endswith("because a file is in the way: set HF_UNLEARN_CACHE to a folder")


def test_an_output_that_closes_in_the_middle(tmp_path: Path):
    """As with ``| head``: the first line that goes nowhere ends the command."""
    script = tmp_path / "talk.py"
    script.write_text(
        "import sys, time\n"
        "from hf_unlearn.cli import main as program\n"
        "from hf_unlearn.cli.command import Command\n"
        "def talk(arguments):\n"
        "    for number in range(3000):\n"
        "        print(number, flush=True)\n"
        "        time.sleep(0.01)\n"
        "    return 0\n"
        "program._commands = lambda: [Command('talk', '', lambda parser: None, talk)]\n"
        "sys.exit(program.main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == 3
    assert process.stderr.read() == "hf-unlearn: the output was closed; run the same command again to continue\n"
    process.stderr.close()
