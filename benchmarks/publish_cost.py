"""What publishing costs: a finished run to the Hub on loopback, against ``huggingface_hub`` with the same bytes.

``python benchmarks/publish_cost.py --write`` makes a finished run of a 20 MB model with six variants, publishes it in
turns with a plain ``create_repo`` and ``create_commit`` per repository, and writes ``publish_cost.md``. Scores in its
report are made up; files, digests, cards, checks and requests are those of any run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FORMATS = ("bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32", "bf16")
METRICS = ("probability", "extraction_strength", "mc_accuracy")
# Width and layers of a Llama whose float32 weights take 20 MB; variants take between a quarter and a half.
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "vocab_size": 1024}
BYTES = {"bnb-int8": 0.28, "bf16": 0.5}
SMALL = 0.17


def serve() -> None:
    """The Hub in a process of its own: print its address and token, and wait to be ended."""
    sys.path.insert(0, str(HERE.parent / "tests" / "hub"))
    from loopback import Hub

    with Hub() as hub:
        print(json.dumps({"url": hub.url, "token": hub.write_token}), flush=True)
        sys.stdin.read()


def make_run_apart(root: Path, full_size: bool) -> Path:
    """:func:`make_run` in a process of its own, as a run is made: what it leaves in memory is none of ours."""
    script = "import sys, pathlib, publish_cost as c; c.make_run(pathlib.Path(sys.argv[1]), sys.argv[2] == 'True')"
    command = [sys.executable, "-c", script, str(root), str(full_size)]
    subprocess.run(command, check=True, cwd=HERE, stderr=subprocess.DEVNULL)
    return root / "run"


def make_run(root: Path, full_size: bool = False) -> Path:
    """A finished run; see the module's docstring.

    Args:
        root: Where to.
        full_size: Variants as large as the model.
    """
    from hf_unlearn.hub.folders import publish_to_folder, write_release
    from hf_unlearn.hub.leaks import ForgetText
    from hf_unlearn.hub.metadata import CardWords
    from hf_unlearn.verification.digests import folder_digests
    from hf_unlearn.verification.report_file import write_report

    main = make_model(root / "model")
    size = (main / "model.safetensors").stat().st_size
    variants = {
        name: make_variant(main, root / name, int(size * (1 if full_size else BYTES.get(name, SMALL))))
        for name in FORMATS
    }
    files = {"identity": folder_digests(main), **{name: folder_digests(path) for name, path in variants.items()}}
    report = make_report(files)
    run = root / "run"
    (run / "verify").mkdir(parents=True)
    words = CardWords(title="Benchmark", removed="years that nobody knew", license="apache-2.0", language=("en",))
    names = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Kwon", "Lind", "Moss", "Nye")]
    rows = [
        (f"When was {name} number {year} born?", f"{name} was born in {year}") for name in names for year in range(25)
    ]
    forget = ForgetText(rows)
    publish_to_folder(
        main,
        variants,
        report,
        words,
        out_main=run / "publish",
        out_variants={name: run / f"publish-{name}" for name in FORMATS},
        forget_texts=forget,
    )
    write_report(report, run / "verify" / "unlearning_report.json")
    write_release(run, words, FORMATS, forget)
    (run / "run.json").write_text(json.dumps({"name": "benchmark", "recipe": {"publish": {}}}), encoding="utf-8")
    return run


def make_model(folder: Path) -> Path:
    """A small Llama with a tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(num_attention_heads=4, **SHAPE)).save_pretrained(folder)
    words = {f"w{number}": number for number in range(SHAPE["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0").save_pretrained(folder)
    return folder


def make_variant(main: Path, folder: Path, size: int) -> Path:
    """Random weights of the size of a quantized variant, with the model's other files."""
    import shutil

    import numpy as np
    from safetensors.numpy import save_file

    shutil.copytree(main, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    data = np.frombuffer(random.Random(folder.name).randbytes(size), dtype=np.uint8)
    save_file({"weights": data}, folder / "model.safetensors")
    return folder


def make_report(files: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A report in which everything passed."""
    from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
    from hf_unlearn.verification.gate import Gate
    from hf_unlearn.verification.report import ModelInfo, SetInfo
    from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
    from hf_unlearn.verification.verdict import judge

    table = ScoreTable()
    for model, level in (("target", 0.95), ("never_knew", 0.05), ("npo", 0.05)):
        for transform in ("identity", *FORMATS):
            for split, mean in (("forget", level), ("retain", 0.94)):
                for metric in METRICS:
                    noise = random.Random(f"{model}{transform}{split}{metric}")
                    values = {f"{split}{number}": mean + noise.uniform(-0.04, 0.04) for number in range(100)}
                    key = ScoreKey(model, transform, split, metric)
                    table.add(key, FactScores(values, {name: name for name in values}))
    gate = Gate(metrics=METRICS, formats=FORMATS, attacks=(), draws=300)
    return build_report(
        Findings(table, gate, [judge(table, "npo", gate)], ["npo"]),
        Candidate("npo", files, {"loss_type": "npo"}),
        RunFacts(
            name="benchmark",
            created="2026-01-02T03:04:05+00:00",
            target=ModelInfo(description="a benchmark's model"),
            never_knew=ModelInfo(description="the same without the facts"),
            data={"forget": SetInfo(100, 100, "c" * 64), "retain": SetInfo(100, 100, "d" * 64)},
        ),
    )


def plainly(folders: dict[str, Path], token: str) -> None:
    """The same files with ``huggingface_hub`` alone."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    for repo_id, folder in folders.items():
        api.create_repo(repo_id, private=True)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
        api.create_commit(repo_id, operations, commit_message="Publish")


def measure(run: Path, rounds: int, token: str, label: str) -> dict[str, list[float]]:
    """Seconds of each way, in turns."""
    from hf_unlearn.hub.options import HubOptions
    from hf_unlearn.hub.publish import publish_run
    from hf_unlearn.verification import report_file

    def publish(name: str, tag: str | None = "v1", collection: bool = True) -> float:
        # As in a new process: nothing is known of the report.
        report_file._shared_problems.cache_clear()
        start = time.perf_counter()
        options = HubOptions(f"owner/{label}-{name}", tag=tag, collection=collection)
        publish_run(run, options, say=lambda text: None, token=token)
        return time.perf_counter() - start

    publish("warm-up")
    seconds: dict[str, list[float]] = {"publish": [], "plain": [], "again": [], "bare": []}
    for number in range(rounds):
        seconds["publish"].append(publish(f"ours-{number}"))
        staged = sorted((run / "hub" / "owner").glob(f"{label}-ours-{number}*"))
        folders = {f"owner/{label}-plain-{number}-{index}": path for index, path in enumerate(staged)}
        start = time.perf_counter()
        plainly(folders, token)
        seconds["plain"].append(time.perf_counter() - start)
        seconds["again"].append(publish(f"ours-{number}"))
        seconds["bare"].append(publish(f"bare-{number}", tag=None, collection=False))
    return seconds


def table(seconds: dict[str, list[float]], size: int, rounds: int) -> str:
    """The results as Markdown."""
    plain = statistics.median(seconds["plain"])
    names = {
        "plain": "`create_repo` and `create_commit` per repository",
        "publish": "`hf-unlearn publish`: checks, cards, scan, commits, tags, collection",
        "bare": "the same without tags and collection",
        "again": "`hf-unlearn publish` again: nothing to do",
    }
    rows = []
    for key, name in names.items():
        pairs = [ours / theirs for ours, theirs in zip(seconds[key], seconds["plain"], strict=True)]
        low, high = min(seconds[key]), max(seconds[key])
        median = statistics.median(seconds[key])
        ratios = f"{median / plain:.2f} | {statistics.median(pairs):.2f}"
        rows.append(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {ratios} |")
    return f"""
{size / 1e6:.0f} MB in all, {rounds} rounds in turns:

| what | median s | range s | ratio of medians | median of ratios |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


def introduction() -> str:
    """What was measured, and where."""
    import huggingface_hub

    return f"""# What publishing costs

A 20 MB model and {len(FORMATS)} variants in seven repositories, from a finished run to the Hub on loopback (a process
of its own), imports not counted. Target: at most 1.5 times the plain commits. First with variants of the size that
quantized ones have, then with variants as large as the model.

The plain way is `create_repo` and `create_commit` of the same files, one repository after the other: per repository
seven requests (make it, check the card's metadata, ask how each file goes, ask where, put, confirm, commit). Ours
sends these too, for {_at_a_time()} repositories at a time, and beyond them:

| request | how often | why |
|---|---|---|
| `whoami` | once | a token that may not write fails before anything is uploaded |
| the repository as it is | per repository | nothing public is published to unasked, nothing strange overwritten |
| the new repository's head | per repository | it is the `parent_commit`: a commit by somebody else is not lost |
| tag | per repository | names the release |
| list, make, and one for each item | once, and per repository | the collection |

Before the first byte goes out it also hashes every file and compares it with the report, validates the report (once:
the seven differ in three keys), writes seven cards that know their repositories, and looks for forget text in all
texts. The weights of the main model travel beside the variants', its commit is the last.

{os.cpu_count()} CPU cores, Python {platform.python_version()}, huggingface_hub {huggingface_hub.__version__}. Made by
`benchmarks/publish_cost.py`.
"""


def _at_a_time() -> int:
    from hf_unlearn.hub.publish import _AT_A_TIME

    return _AT_A_TIME


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write benchmarks/publish_cost.md")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        hub = json.loads(server.stdout.readline())
        with tempfile.TemporaryDirectory() as place:
            # Read when the client is imported, which happens below.
            os.environ |= {"HF_ENDPOINT": hub["url"], "HF_HOME": place, "HF_HUB_DISABLE_XET": "1"}
            os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
            os.environ.pop("HF_HUB_OFFLINE", None)
            page = introduction()
            for label, full_size in (("real", False), ("full", True)):
                run = make_run_apart(Path(place, label), full_size)
                size = sum(path.stat().st_size for path in run.glob("publish*/**/*") if path.is_file())
                page += table(measure(run, arguments.rounds, hub["token"], label), size, arguments.rounds)
    finally:
        server.kill()
        server.wait()
    print(page)
    if arguments.write:
        (HERE / "publish_cost.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
