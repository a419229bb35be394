"""Log-probabilities of labels behind an output head, forward and backward: here, by TRL, and by ``log_softmax``.

    python benchmarks/head_cost.py --write        # a few minutes; TRL's side needs  pip install trl

The head is that of a 135 M-parameter model (49152 by 576, float32) at 4 rows of 512 labels. Here logits are made once
and their gradient once. TRL's fused head, called as ``add_fused_lm_head`` calls it, makes them in tiles, twice, and
adds up gradients in float32. Every side runs in a process of its own. Memory is the peak above what the process held
before, weights and their gradients included; time is the processor's. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE = Path(__file__).with_suffix(".md")
SIDES = ("here", "trl", "log_softmax")
VOCABULARY, WIDTH = 49152, 576


def logps(side: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """``[N]`` from hidden states ``[N, width]``, the head ``[vocabulary, width]`` and labels ``[N]``."""
    if side == "here":
        from hf_unlearn.losses.fused import label_logps

        return label_logps(F.linear(hidden, weight), labels)
    if side == "trl":
        from trl.trainer import utils

        size = utils._CHUNKED_LOGPROB_CHUNK_SIZE
        scored = utils._ChunkedLogProbFunction.apply(
            hidden, weight, None, labels, 1.0, size, None, 1.0, ("log_probs",)
        )
        return scored[0]
    return F.linear(hidden, weight).log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def measure(side: str, count: int) -> tuple[float, float, float]:
    """MiB at the peak, seconds, and the sum of the log-probabilities."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hidden = torch.randn(count, WIDTH).requires_grad_()
    weight = (torch.randn(VOCABULARY, WIDTH) * 0.02).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (count,))
    logps(side, hidden[:2].detach(), weight.detach(), labels[:2])  # imports
    before, start = peak(), time.process_time()
    found = logps(side, hidden, weight, labels)
    found.sum().backward()
    return peak() - before, time.process_time() - start, found.sum().item()


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure every side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--labels", type=int, default=512, help="labels in a row")
    parser.add_argument("--side", choices=SIDES, help="only measure this one, in this process")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    count = arguments.rows * arguments.labels
    if arguments.side:
        print("{:.0f} {:.1f} {:.2f}".format(*measure(arguments.side, count)))
        return
    lines = ["| side | peak | time | sum |", "|---|---|---|---|"]
    for side in SIDES:
        asked = [sys.executable, __file__, "--side", side, "--rows", str(arguments.rows)]
        done = subprocess.run(
            [*asked, "--labels", str(arguments.labels)], stdout=subprocess.PIPE, text=True, check=True
        )
        memory, seconds, total = done.stdout.split()
        lines.append(f"| {side} | {memory} MiB | {seconds} s | {total} |")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "trl"))
    text = (
        "# Cost of label log-probabilities\n\n"
        "Made by `python benchmarks/head_cost.py --write`; no test asserts it.\n\n"
        + "\n".join(lines)
        + f"\n\n{arguments.rows} rows of {arguments.labels} labels, head {VOCABULARY} by {WIDTH}, float32, "
        f"one CPU thread; {versions}. On a GPU TRL's tiles are scored by a Triton kernel, which was not measured.\n"
    )
    print(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
