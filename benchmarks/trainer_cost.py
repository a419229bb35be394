"""Time and memory of a training step beside how common code computes it (peer_steps.py).

    python benchmarks/trainer_cost.py                                # CPU, about 15 minutes on two quiet cores
    python benchmarks/trainer_cost.py --data forget10.jsonl --write  # TOFU's own rows; into trainer_cost.md
    python benchmarks/trainer_cost.py --steps 3 --methods npo-nll rmu
    python benchmarks/trainer_cost.py --profile npo-nll --write      # where a step's time goes: a minute
    python benchmarks/trainer_cost.py --methods graddiff --pass-tokens 256 512 1024 0 --write   # in pieces
    python benchmarks/trainer_cost.py --clock cpu --compare float32 bf16 --methods npo-nll --write   # our own step
    python benchmarks/trainer_cost.py --device cuda --layers 16 --width 2048 --vocabulary 128256 --bf16 --length 512

``--profile``, ``--pass-tokens`` and ``--compare`` print their own section and nothing else. ``--write`` puts the
sections that were measured into the page and leaves its others as they are; with ``--methods`` the table has these
methods only.

Each side of each method runs in processes of its own: same model, rows, batch, precision, optimizer (fused AdamW) and
clipping. Time is the median over steps after the first ones; on a machine that others use too, `--clock cpu` counts
processor time instead (with OMP_NUM_THREADS=1 about what a quiet core would take). Memory is the process's peak less
what it held before the model was made, all libraries loaded by a small run (on a GPU: the allocator's peak). For
memory the C library is told to give freed tensors back, or the figure would be about its heap. The floor is what no
implementation can save: multiplications for real tokens only, with the output head at label positions only, three
times the forward's, and for memory weights, gradients and optimizer state. The profile always counts wall time.
Nothing is asserted; targets (step_targets.py) are only compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from pages import command_line, made_by, table, write_sections
from peer_steps import STEPS
from step_sides import (
    CLOCKS,
    VARIANTS,
    floor,
    load_libraries,
    run_both,
    run_compared,
    run_ours,
    run_peer,
    run_pieces,
    run_profile,
    run_saliency,
)
from step_targets import targets_table

PAGE = Path(__file__).with_suffix(".md")
TITLE = "Cost of a training step"
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
FLOORED = ("graddiff", "simnpo", "npo-nll")
"""Methods that train all weights with two terms and no second model's logits: those that the floor is counted for."""
HEADER = ["method", "peer, a step", "here", "ratio", "peer, peak", "here", "ratio"]


def steps_section(args: argparse.Namespace) -> dict[str, str]:
    """Both sides of every method, and what was to be reached."""
    made, rows, ratios = setting(args), [], {}
    for method in args.methods:
        peer, ours = (measured(args, [side, method]) for side in ("peer", "ours"))
        ratios[method] = ours["seconds"] / peer["seconds"], ours["bytes"] / peer["bytes"]
        rows.append(steps_row(method, peer, ours))
        print(" | ".join(rows[-1]), flush=True)
    mask = run_child(args, ["saliency"], {})
    faster = mask["peer"] / mask["ours"]
    text = f"{made}\n\n{floor_line(args)}\n\n{table(HEADER, rows)}\n\n{mask_line(mask)}"
    return {"steps": text, "targets": targets_table(ratios, faster)}


def steps_row(method: str, peer: dict[str, float], ours: dict[str, float]) -> list[str]:
    """One line of the table."""
    cells = [method]
    for key, unit, size in (("seconds", "s", 1), ("bytes", "GiB", 2**30)):
        cells += [f"{side[key] / size:.2f} {unit}" for side in (peer, ours)]
        cells.append(f"**{ours[key] / peer[key]:.2f}**")
    return cells


def floor_line(args: argparse.Namespace) -> str:
    """What no implementation can save."""
    least = floor(args)
    return (
        f"Floor of a step on all weights ({', '.join(FLOORED)}): {least['tflop']:.2f} TFLOP, and "
        f"{least['bytes'] / 2**30:.2f} GiB for weights, gradients and optimizer state."
    )


def mask_line(mask: dict[str, float]) -> str:
    """The two ways to make SURE's mask."""
    return (
        f"SURE's row mask of given gradients: {mask['peer']:.2f} s by a dictionary entry per row, "
        f"{mask['ours']:.3f} s in tensors: **{mask['peer'] / mask['ours']:.0f} times** faster."
    )


def profile_section(args: argparse.Namespace) -> dict[str, str]:
    """How much of a step is matrix products."""
    made, lines = setting(args), []
    for method in args.profile:
        found = run_child(args, ["profile", method], {})
        lines.append(profile_line(method, found, floor(args)["tflop"]))
        print(lines[-1], flush=True)
    return {"profile": "\n".join([f"{made}\n", *lines])}


def profile_line(method: str, found: dict[str, float], least: float) -> str:
    """Share and speed of matrix products, and the floor at that speed."""
    rate = found["matrix_tflop"] / found["matrix_seconds"]
    return (
        f"- {method}: {found['matrix_seconds'] / found['seconds']:.0%} of a step's {found['seconds']:.2f} s are "
        f"matrix products, at {1000 * rate:.0f} GFLOP/s; the counted floor takes {least / rate:.2f} s at that rate."
    )


def pieces_section(args: argparse.Namespace) -> dict[str, str]:
    """A step's time by the tokens of a pass."""
    made, rows = setting(args), []
    method = args.methods[0]
    for tokens in args.pass_tokens:
        found = run_child(args, ["pieces", method, str(tokens)], {})
        rows.append([str(tokens) if tokens else "a micro-batch in one pass", f"{found['seconds']:.1f} s"])
        print(" | ".join(rows[-1]), flush=True)
    return {"pieces": f"{made}\n\n{pieces_table(method, rows)}"}


def pieces_table(method: str, rows: list[list[str]]) -> str:
    """A line per length of a pass."""
    return f"Pieces of a micro-batch ({method}):\n\n{table(['tokens of a pass', 'a step'], rows)}"


def compared_section(args: argparse.Namespace) -> dict[str, str]:
    """Variants of our own step, in turn in one process: each one's time as a share of the first one's."""
    made, rows = setting(args), []
    first, *others = args.compare
    for method in args.methods:
        found = run_child(args, ["compared", method, *args.compare], {})
        rows.append([method, f"{statistics.median(found[first]):.2f} s"])
        for other in others:
            ratios = sorted(mine / its for mine, its in zip(found[other], found[first], strict=True))
            rows[-1].append(f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        print(" | ".join(rows[-1]), flush=True)
    said = f"Medians of {args.repeats} turns, and the least and greatest ratio of a turn."
    return {"variants": f"{made}\n\n{said}\n\n{table(['method', first, *others], rows)}"}


def measured(args: argparse.Namespace, words: list[str]) -> dict[str, float]:
    """Time of one side and its memory, each in a process of its own: freed tensors that are given back cost time."""
    return {**run_child(args, words, {}), "bytes": run_child(args, words, RETURNED)["bytes"]}


def run_child(args: argparse.Namespace, words: list[str], variables: dict[str, str]) -> dict[str, float]:
    """What a process that does one side prints."""
    command = [sys.executable, __file__, *args.passed, "--child", *words]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    if result.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{result.stderr[-2000:]}")
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def be_child(args: argparse.Namespace) -> None:
    """Do one side and print what it took."""
    side, *words = args.child
    load_libraries(args)
    if side == "compared":
        made: dict[str, Any] = run_compared(args, words[0], words[1:])
    elif side == "pieces":
        made = run_pieces(args, words[0], int(words[1]))
    elif side == "saliency":
        made = run_saliency(args)
    elif side == "both":
        made = run_both(args, words[0])
    else:
        made = {"peer": run_peer, "ours": run_ours, "profile": run_profile}[side](args, words[0])
    print(json.dumps(made))


def setting(args: argparse.Namespace) -> str:
    """What was measured where."""
    where = f" on {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    return (
        f"{made_by(command_line(__file__))}\n{args.clock.capitalize()} time{where}; {args.layers} layers, width "
        f"{args.width}, vocabulary {args.vocabulary}, {args.batch} forget and {args.batch} retain rows a step, "
        f"{'bf16 autocast over ' if args.bf16 else ''}float32 weights."
    )


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--data", type=Path, help="question and answer rows as JSON lines, whose lengths are used")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true")
    for name, default in (
        ("layers", 8),
        ("width", 512),
        ("vocabulary", 32000),
        ("batch", 8),
        ("steps", 8),
        ("warm", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--repeats", type=int, default=5, help="turns of --compare")
    parser.add_argument("--length", type=int, default=0, help="tokens of every row; 0 for lengths like TOFU's")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--profile", nargs="+", choices=FLOORED, help="only profile these methods")
    what.add_argument("--compare", nargs="+", choices=list(VARIANTS), help="only compare variants of our own step")
    what.add_argument(
        "--pass-tokens",
        nargs="+",
        type=int,
        help="only time the first method in passes of so many tokens; 0 for no pieces",
    )
    parser.add_argument("--write", nargs="?", type=Path, const=PAGE, help=f"also into a page ({PAGE.name})")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.passed = sys.argv[1:]
    return args


def main() -> None:
    """Measure, print, and write if asked to."""
    args = parsed()
    if args.child:
        be_child(args)
        return
    asked = {compared_section: args.compare, profile_section: args.profile, pieces_section: args.pass_tokens}
    make = next((section for section, wanted in asked.items() if wanted), steps_section)
    sections = make(args)
    print("\n\n".join(sections.values()))
    if args.write:
        write_sections(args.write, TITLE, sections)


if __name__ == "__main__":
    main()
