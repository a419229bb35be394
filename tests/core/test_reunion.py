"""Processes that have separated come together again, unless the one that they wait for is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch.distributed

from hf_unlearn.errors import EnvironmentFailure
from hf_unlearn.runtime import processes
from hf_unlearn.runtime.processes import Left, alone, rank, world_size
from hf_unlearn.runtime.reunion import together_again


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process was the second one of a launch."""
    monkeypatch.setattr(processes, "_left", Left({"RANK": "1", "WORLD_SIZE": "2"}, "token"))


def test_one_process_meets_nobody(tmp_path: Path) -> None:
    with together_again(tmp_path, lambda: False):
        assert world_size() == 1 and not torch.distributed.is_initialized()
    assert not os.listdir(tmp_path)


def test_the_first_process_is_gone(tmp_path: Path, second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_unlearn.runtime.reunion._PAUSE", 0.01)
    answers = iter([True, True, False])
    lost = pytest.raises(EnvironmentFailure, match="first process of this launch was lost: run the same command")
    with lost, together_again(tmp_path, lambda: next(answers)):
        raise AssertionError("nobody is there")
    assert world_size() == 1


def test_a_process_is_lost_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gloo says it; what else goes wrong is told as it is. A group of one has nobody to wait for."""
    launch = Left({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}, "token")
    monkeypatch.setattr(processes, "_left", launch)
    lost = pytest.raises(EnvironmentFailure, match="another process of this launch was lost")
    with lost, together_again(tmp_path, lambda: True):
        assert not os.listdir(tmp_path) and os.environ["RANK"] == "0"
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes"), together_again(tmp_path, lambda: True):
        raise RuntimeError("shapes differ")
    assert not os.listdir(tmp_path) and "RANK" not in os.environ and not torch.distributed.is_initialized()


def test_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ZeroDivisionError), alone():
        assert (rank(), world_size()) == (0, 1)
        raise ZeroDivisionError
    assert (rank(), world_size()) == (3, 4)
