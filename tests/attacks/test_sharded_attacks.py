"""A retraining job over two processes, each with its shards: the scores of one process, and a process that is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from knowing_model import FEW, train_on_few

from hf_unlearn.attacks.composed import OrderedAttack
from hf_unlearn.attacks.relearn import Relearn
from hf_unlearn.attacks.rtt import RTT
from hf_unlearn.cli.main import main
from hf_unlearn.data.planted import make_planted
from hf_unlearn.errors import RequestError
from hf_unlearn.evaluation.records import read_records

# Five rows in steps of three and two: one process has a row more than the other, then none.
STEPS = "batch_size=3"
WORDS = [
    *("--attack", "relearn", "attack.relearn.examples=5", f"attack.relearn.{STEPS}", "attack.relearn.epochs=2"),
    *("attack.relearn.learning_rates=[1.0e-3,3.0e-3]", "attack.relearn.sharded=true"),
    *("--attack", "rtt", "attack.rtt.folds=2", "attack.rtt.run_folds=1", f"attack.rtt.{STEPS}", "attack.rtt.epochs=1"),
    *("attack.rtt.learning_rates=[3.0e-3]", "attack.rtt.tuning=lora", "attack.rtt.lora_rank=4"),
    *("attack.rtt.warmup_steps=2", "attack.rtt.sharded=true"),
]


@pytest.fixture(scope="module")
def model(made_once) -> Path:
    return made_once("model-of-few-facts", train_on_few)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """The forget set as a user's file."""
    file = tmp_path_factory.mktemp("rows") / "forget.jsonl"
    members = [
        {"prompt": row.prompt, "answer": row.answer, "group": row.group, "choices": list(row.choices)}
        for row in make_planted(FEW).forget.score
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in members))
    return file


def words(model: Path, rows: Path, out: Path) -> list[str]:
    return ["attack", str(model), "--data", str(rows), "--output-dir", str(out), *WORDS]


def launch(script: list[str], given: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Two processes without an agent that watches them, so that what each of them says is its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, *script, *given],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *each)
        for process, each in zip(started, said, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_go_on_after_one_was_lost(model, rows, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(words(model, rows, alone)) == 0
    assert not list(alone.rglob("shards.json"))

    lost = launch([str(Path(__file__).with_name("losing_process.py")), "5"], words(model, rows, together))
    assert lost[1].returncode == 9
    assert lost[0].returncode == 3, lost[0].stderr
    assert "another process of this launch was lost: run the same command again, what is finished is kept" in " ".join(
        lost[0].stderr.split()
    )
    assert "Traceback" not in lost[0].stderr
    jobs = together / "model" / "relearn"
    finished = [path for path in jobs.iterdir() if not path.name.endswith(".partial")]
    assert [path.name for path in finished] == ["lr0.001"]
    before = (finished[0] / "epoch2.jsonl").stat().st_mtime_ns

    again = launch(["-m", "hf_unlearn"], words(model, rows, together))
    assert [process.returncode for process in again] == [0, 0], again[0].stderr[-3000:]
    assert (finished[0] / "epoch2.jsonl").stat().st_mtime_ns == before
    check_shards(together)
    check_scores(alone, together)


def check_shards(out: Path) -> None:
    """What really ran: each process held about half of the largest weight."""
    told = [json.loads(file.read_text()) for file in sorted(out.rglob("shards.json"))]
    assert len(told) == 3
    for shards in told:
        assert (shards["engine"], shards["processes"]) == ("FSDP2", 2)
        assert shards["of"] / 2 <= shards["held"] < shards["of"] * 0.51 + 64


def check_scores(alone: Path, together: Path) -> None:
    records = sorted(path.relative_to(alone) for path in alone.rglob("epoch*.jsonl"))
    assert records == sorted(path.relative_to(together) for path in together.rglob("epoch*.jsonl"))
    assert len(records) == 2 * 3 + 2
    moved = 0.0
    for file in records:
        for one, two in zip(read_records(alone / file), read_records(together / file), strict=True):
            assert one.id == two.id
            assert two.logps == pytest.approx(one.logps, rel=1e-4, abs=1e-4)
        first, last = (read_records(alone / file.with_name(name)) for name in ("epoch0.jsonl", "epoch1.jsonl"))
        moved = max(moved, *(abs(sum(a.logps) - sum(b.logps)) for a, b in zip(first, last, strict=True)))
    assert moved > 0.5, "steps that change nothing would agree too"


def test_what_cannot_be_sharded_is_refused():
    with pytest.raises(RequestError, match=r"relearn.optimizer is adamw_8bit, whose states cannot be sharded"):
        Relearn(optimizer="adamw_8bit", sharded=True)
    with pytest.raises(RequestError, match="needs the whole attacked model on one device, and rtt is sharded"):
        OrderedAttack("rtt", RTT(sharded=True), then="bnb-nf4")
