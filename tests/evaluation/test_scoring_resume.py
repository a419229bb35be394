"""Evaluations that are killed, run short of memory, or are shared by processes end with the same files."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.evaluation.batch_runner import Journal, Passes
from hf_unlearn.evaluation.run import EvalSpec, Sampling, SetScoring, evaluate_folder
from hf_unlearn.models import loading
from hf_unlearn.runtime.environment import is_out_of_memory

SPEC = EvalSpec(metrics=("probability", "rouge_l", "mc_accuracy"), max_new_tokens=4, fluency_tokens=4, batch_tokens=48)
SCORING = {
    "forget": SetScoring(
        needs=("vocabulary", "layers", "gradient", "samples", "variants:perturbed", "text"),
        sampling=Sampling(count=2, temperature=0.8, seed=3),
    )
}
FILES = ("records.jsonl", "summary.json")
JOURNAL = "records.partial-0.jsonl"

# Evaluates what the test pickled; dies by SIGKILL in the so-manieth forward of the model's first layer, or not (0).
SCRIPT = """
import os, pickle, signal, sys, time
from pathlib import Path
import torch
from hf_unlearn.models import loading
from hf_unlearn.evaluation.run import evaluate_folder

deaths, arguments, scoring = pickle.loads(Path(sys.argv[1]).read_bytes())
load, seen = loading.load_model, []

def load_mortal(*args, **kwargs):
    model = load(*args, **kwargs)
    def step(*call):
        seen.append(1)
        if len(seen) == deaths:
            os.kill(os.getpid(), signal.SIGKILL)
    model.model.layers[0].register_forward_hook(step)
    return model

loading.load_model = load_mortal
evaluate_folder(*arguments, scoring=scoring)
if "RANK" in os.environ:  # once more by processes that have separated, of which the first one was busy alone
    from hf_unlearn.runtime.processes import leave_group, rank, world_size
    from hf_unlearn.runtime.reunion import together_again

    number, out = rank(), Path(arguments[-1])
    leave_group()
    assert (rank(), world_size()) == (0, 1)
    if number == 0:
        time.sleep(1)
    before = len(seen)
    with together_again(out.parent, lambda: True):
        assert (rank(), world_size()) == (number, 2)
        evaluate_folder(*arguments[:-1], out.with_name("again"), scoring=scoring)
    assert (rank(), world_size()) == (0, 1)
    os.environ["RANK"] = str(number)
    assert len(seen) == 2 * before, "each has done as much as the first time"
Path(sys.argv[1] + os.environ.get("RANK", "")).write_text(str(len(seen)))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def many(sets):
    """Rows enough for many batches, two of them the same, with variants."""
    forget = [
        replace(row, id=f"{row.id}-{copy}", variants=(("perturbed", (" 1901 and a year", " by the river")),))
        for copy in range(3)
        for row in sets["forget"]
    ]
    return {"forget": tuple(forget), "retain": sets["retain"]}


@pytest.fixture(scope="module")
def arguments(folder, many, make_row, make_model, save, tmp_path_factory):
    generic = [make_row("g0", "", "A long river ran by the old town."), make_row("g1", "", "The year of the town")]
    reference = save(make_model(seed=9), tmp_path_factory.mktemp("reference"))
    return (folder, many, generic, reference, TextFormat(), SPEC)


@pytest.fixture
def forwards(monkeypatch):
    """Grows by one with every forward of a model that is loaded for scoring."""
    load, seen = loading.load_model, []

    def load_counted(*args, **kwargs):
        model = load(*args, **kwargs)
        model.model.layers[0].register_forward_hook(lambda *call: seen.append(1))
        return model

    monkeypatch.setattr(loading, "load_model", load_counted)
    return seen


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The files of an evaluation that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    evaluate_folder(*arguments, out, scoring=SCORING)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


def start(folder: Path, deaths: int, arguments, out: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    (folder / "arguments.pickle").write_bytes(pickle.dumps((deaths, (*arguments, out), SCORING)))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, *launcher, str(folder / "script.py"), str(folder / "arguments.pickle")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Launchers give each process one; sums over several threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def killed(arguments, tmp_path_factory) -> bytes:
    """What an evaluation that was killed left behind."""
    folder = tmp_path_factory.mktemp("killed")
    done = start(folder, 30, arguments, folder / "out")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (folder / "out").iterdir()] == [JOURNAL]
    return (folder / "out" / JOURNAL).read_bytes()


def test_killed_evaluation_goes_on_and_ends_with_the_same_bytes(arguments, whole, killed, forwards, tmp_path):
    lines = killed.splitlines(keepends=True)
    assert len(lines) > 5 and json.loads(lines[1])["pass"] == "likelihood"
    half = lines[-1][: len(lines[-1]) // 2]
    counts = []
    for name, left in (("killed", killed), ("killed in the middle of a line", killed + half), ("new", b"")):
        out = tmp_path / name
        out.mkdir()
        (out / JOURNAL).write_bytes(left)
        forwards.clear()
        evaluate_folder(*arguments, out, scoring=SCORING)
        counts.append(len(forwards))
        assert {file: (out / file).read_bytes() for file in FILES} == whole
        assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert counts[0] == counts[1] < counts[2] - 10, "what was finished is not done again"


def test_what_was_kept_of_another_evaluation_is_not_used(arguments, whole, killed, tmp_path):
    lines = killed.decode().splitlines()
    assert "Ada" not in killed.decode(), "rows stand only in their own files"
    others = json.loads(lines[0]) | {"fingerprint": "another"}
    (tmp_path / JOURNAL).write_text("\n".join([json.dumps(others), *lines[1:]]).replace("-", "") + "\n")
    evaluate_folder(*arguments, tmp_path, scoring=SCORING)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole


def test_what_was_kept_of_a_model_with_the_same_sizes_and_times_is_not_used(arguments, tmp_path, monkeypatch):
    """A write through a memory mapping moves no time, and a program can set times back."""

    class Seen(Exception):
        pass

    def stop(folder: Path, fingerprint: str, rank: int) -> None:
        raise Seen(fingerprint)

    folder = Path(shutil.copytree(arguments[0], tmp_path / "model"))
    monkeypatch.setattr("hf_unlearn.evaluation.batch_runner.Journal", stop)
    seen = []
    for _ in range(3):
        with pytest.raises(Seen) as found:
            evaluate_folder(folder, *arguments[1:], tmp_path / "out", scoring=SCORING)
        seen.append(str(found.value))
        weights = folder / "model.safetensors"
        times = weights.stat()
        with weights.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[-2] ^= 1
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert seen[0] != seen[1] and seen[0] == seen[2], "what is in the files decides"


def test_two_processes_share_the_forwards_and_give_the_files_of_one(arguments, whole, forwards, tmp_path):
    out = tmp_path / "out"
    done = start(tmp_path, 0, arguments, out, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert done.returncode == 0, done.stderr[-3000:]
    for folder in (out, tmp_path / "again"):
        assert {name: (folder / name).read_bytes() for name in FILES} == whole
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert not list(tmp_path.glob(".meeting*"))
    evaluate_folder(*arguments, tmp_path / "alone", scoring=SCORING)
    shares = [int((tmp_path / f"arguments.pickle{rank}").read_text()) / 2 for rank in (0, 1)]
    assert max(shares) < 0.8 * len(forwards)


def test_batches_that_do_not_fit_are_halved():
    sizes = [8, 8, 8, 8, 4, 4, 4, 4]
    asked = []

    def work(members):
        asked.append(len(members))
        if sum(sizes[member] for member in members) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return [10 * member for member in members]

    assert Passes(48).run("work", sizes, work) == [10 * member for member in range(8)]
    assert asked == [6, 3, 1, 1, 1, 1, 2, 2], "8 tokens at a time are what fits"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 1 b"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_known_by_its_messages(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_fails_is_one_of_them():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def test_a_row_too_large_for_memory_ends_the_run():
    def work(members):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(EnvironmentFailure, match=r"one row of 70 tokens \(likelihood\)"):
        Passes(4096).run("likelihood", [7, 70], work)


def test_other_errors_are_not_taken_for_lack_of_memory():
    def work(members):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Passes(4096).run("likelihood", [7, 70], work)


def test_the_size_that_fitted_is_remembered_across_a_kill(tmp_path):
    """Batches are cut after a kill as they were before it, so that the last digits are the same."""
    sizes, asked = [4] * 16, []

    def work(members):
        asked.append(len(members))
        if len(members) > 2:
            raise MemoryError
        if len(asked) == 5:
            raise KeyboardInterrupt
        return list(members)

    journal = Journal(tmp_path, "same")
    with pytest.raises(KeyboardInterrupt), journal.open():
        Passes(16, journal).run("work", sizes, work)
    assert asked == [4, 2, 2, 2, 2]
    journal = Journal(tmp_path, "same")
    with journal.open():
        assert Passes(16, journal).run("work", sizes, work) == list(range(16))
    assert asked[5:] == [2] * 6
