"""What formats cost: export (with its check), reload and score, beside scoring the bf16 folder once.

    python benchmarks/format_cost.py                  # the default formats on a 27 M-parameter Llama
    python benchmarks/format_cost.py --small          # a few seconds, to see that it works
    python benchmarks/format_cost.py --formats bf16,gguf-q4_0 --dtype bfloat16 --write

Weights are random: no format looks at what they mean. Every repeat exports to a new folder; the first one, in which
libraries are imported and kernels set up, is not counted. Memory is the process's own, above what it held before the
phase, sampled; a bfloat16 folder that is read as it is stored is a mapped file, which is counted with ``--mapped``
only. ``--write`` puts the table into ``benchmarks/format_cost.md``. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_suffix(".md")
# Made by any machine with the `quantization` extra, from any model, without text to calibrate on.
EIGHT = ("bf16", "bnb-int8", "bnb-nf4", "bnb-fp4", "ct-fp8", "ct-int8", "rtn-int4-g128", "rtn-int4-g32")


@dataclass(frozen=True)
class Phase:
    """One measured step.

    Attributes:
        seconds: Wall time.
        peak_bytes: Most memory held at one moment, above what was held before.
    """

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """Medians of one format.

    Attributes:
        name: The format.
        export: Writing the folder and checking it.
        score: Loading the folder and scoring it.
        file_bytes: Size of its weight files.
    """

    name: str
    export: Phase
    score: Phase
    file_bytes: int


def measured(step: Callable[[], object]) -> Phase:
    """Run a step and watch the memory of this process (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # give freed pages back, or the step would find them free
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        step()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    return Phase(seconds, max(peak, resident()) - before)


_COUNTED = ["RssAnon:"]


def resident() -> int:
    """Bytes of this process in memory; mapped files, which the system takes back when it needs room, if asked for."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(tuple(_COUNTED)))


def return_freed_memory() -> None:
    """Have blocks of a megabyte and more given back when they are freed, as those of larger models are (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(-3, 2**20)  # M_MMAP_THRESHOLD, which otherwise grows to 32 MiB


def build(folder: Path, small: bool) -> int:
    """Save a Llama with random weights in bfloat16, and a tokenizer. Returns the number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hf_unlearn.data.planted import PlantedSpec, make_planted
    from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2} if small else {}
    config = LlamaConfig(
        **{
            "vocab_size": 4096,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 7,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **sizes,
        }
    )
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    bundle = make_planted(PlantedSpec())
    texts = [row.text for row in (*bundle.generic.train, *bundle.forget.train)]
    build_tokenizer(texts, ScratchSpec(vocab_size=1024)).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def scorer(small: bool, dtype: str) -> Callable[[Path, Path], None]:
    """A function that loads and scores a folder as a run does: likelihoods, options and continuations."""
    from hf_unlearn.data.encoding import TextFormat
    from hf_unlearn.data.planted import PlantedSpec, make_planted
    from hf_unlearn.evaluation.run import EvalSpec, evaluate_folder

    facts = 10 if small else 24
    bundle = make_planted(PlantedSpec(forget=facts, retain=facts, holdout=facts // 2))
    spec = EvalSpec(max_new_tokens=16, generate_limit=facts // 2)

    def score(folder: Path, out: Path) -> None:
        evaluate_folder(folder, bundle.scored_sets(), bundle.generic.score[:40], None, TextFormat(), spec, out, dtype)

    return score


def cost_of(name: str, source: Path, score: Callable[[Path, Path], None], repeats: int) -> Cost:
    """Medians over repeats of export and of reload with scoring; one more repeat comes first."""
    from hf_unlearn.quantization import export_format

    exports, scores, size = [], [], 0
    for number in range(repeats + 1):
        with tempfile.TemporaryDirectory() as work:
            target = Path(work) / "out"
            exported = measured(lambda folder=target: export_format(name, source, folder))  # type: ignore[misc]
            scored = measured(lambda folder=target: score(folder, folder.with_name("scores")))  # type: ignore[misc]
            size = sum(file.stat().st_size for kind in ("*.safetensors", "*.gguf") for file in target.glob(kind))
        if number:
            exports.append(exported)
            scores.append(scored)
    print(
        f"{name}: export {_median(exports).seconds:.2f} s, reload and score {_median(scores).seconds:.2f} s",
        flush=True,
    )
    return Cost(name, _median(exports), _median(scores), size)


def _median(phases: list[Phase]) -> Phase:
    return Phase(statistics.median(phase.seconds for phase in phases), int(max(phase.peak_bytes for phase in phases)))


def table(costs: list[Cost], base: Phase, base_bytes: int, parameters: int, dtype: str, repeats: int) -> str:
    """The page: one line per format, then the sums."""
    megabytes = 2**20
    total = sum(cost.export.seconds + cost.score.seconds for cost in costs)
    lines = [
        "# Cost of formats",
        "",
        f"`python benchmarks/format_cost.py`: a Llama with {parameters / 1e6:.0f} M random parameters in bfloat16,",
        f"scored in {dtype}; medians of {repeats} repeats after a first one that is not counted, and greatest peaks.",
        "Export has its own check, which loads the folder once more. Peaks are above what the process held before;",
        "beside them stands what the bf16 weights and the file take together. Mapped files are "
        + ("counted." if "RssFile:" in _COUNTED else "not counted."),
        "",
        f"Scoring the bf16 folder once: {base.seconds:.2f} s, peak {base.peak_bytes / megabytes:.0f} MiB. "
        f"Its weights: {base_bytes / megabytes:.0f} MiB.",
        "",
        "| format | export, s | reload and score, s | file, MiB | bf16 and file, MiB | export, MiB | scoring, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        both = (base_bytes + cost.file_bytes) / megabytes
        peaks = f"{cost.export.peak_bytes / megabytes:.0f} | {cost.score.peak_bytes / megabytes:.0f}"
        lines.append(
            f"| `{cost.name}` | {cost.export.seconds:.2f} | {cost.score.seconds:.2f} "
            f"| {cost.file_bytes / megabytes:.1f} | {both:.0f} | {peaks} |"
        )
    lines += [
        "",
        f"All {len(costs)}: {total:.1f} s, {total / base.seconds:.1f} times scoring bf16 once.",
        "",
        f"{os.cpu_count()} CPU cores, {platform.machine()}, {_threads()} threads; "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "bitsandbytes"))
        + f", compressed-tensors {importlib.metadata.version('compressed-tensors')}.",
        "",
    ]
    return "\n".join(lines)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@contextlib.contextmanager
def a_model(small: bool) -> Iterator[tuple[Path, int]]:
    """A folder with the model to export."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model"
        yield source, build(source, small)


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(EIGHT), help="names, with commas between them")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of scoring")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--mapped", action="store_true", help="count mapped files too")
    parser.add_argument("--write", action="store_true", help=f"put the table into {TABLE.name}")
    arguments = parser.parse_args()
    from hf_unlearn.runtime.log_filters import quiet_backends

    quiet_backends()
    return_freed_memory()
    if arguments.mapped:
        _COUNTED.append("RssFile:")
    score = scorer(arguments.small, arguments.dtype)
    with a_model(arguments.small) as (source, parameters):
        base_bytes = (source / "model.safetensors").stat().st_size
        phases = []
        for number in range(arguments.repeats + 1):
            with tempfile.TemporaryDirectory() as work:
                phase = measured(lambda folder=work: score(source, Path(folder) / "out"))  # type: ignore[misc]
            if number:
                phases.append(phase)
        base = _median(phases)
        print(f"scoring bf16: {base.seconds:.2f} s", flush=True)
        costs = [cost_of(name, source, score, arguments.repeats) for name in arguments.formats.split(",")]
    page = table(costs, base, base_bytes, parameters, arguments.dtype, arguments.repeats)
    print(page)
    if arguments.write:
        TABLE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
