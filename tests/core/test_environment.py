"""What comes from the machine is told apart from what does not, however a library reports it."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
from safetensors import SafetensorError

from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.runtime.environment import environment_failures, explain


@pytest.mark.parametrize(
    ("error", "what", "where"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full", None),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/x/y"), "a file grew larger than this account", "/x/y"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), "the file system is read-only", "/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "no permission to read or write", "/x"),
        # as these libraries word it
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "the disk is full", None),
        (SafetensorError("I/O error: File too large (os error 27)"), "a file grew larger than this account", None),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "a file could not",
            None,
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            "out of m",
            None,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory", None),
        (MemoryError(), "out of memory", None),
    ],
)
def test_failures_of_the_machine(error, what, where, tmp_path):
    found = explain(error)
    assert found is not None and found[0].startswith(what) and found[1] == where
    with (
        pytest.raises(EnvironmentFailure, match=f"everything finished in {tmp_path} is kept"),
        environment_failures(tmp_path),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        KeyError("loss"),
        SafetensorError("Error while deserializing header: header too large"),
        KeyboardInterrupt(),
        RequestError("out of memory is only a word here"),
    ],
)
def test_everything_else_passes_through(error, tmp_path):
    with pytest.raises(type(error)) as caught, environment_failures(tmp_path):
        raise error
    assert caught.value is error


def test_the_cause_of_an_error_counts_too():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert explain(error) == ("the disk is full", None)


def test_missing_extras_travel_between_processes():
    error = pickle.loads(pickle.dumps(MissingExtraError("format x", "package", "extra")))
    assert str(error) == "format x needs package, which is not installed: run  pip install 'hf_unlearn[extra]'"
