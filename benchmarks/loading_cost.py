"""What verified loading costs beside a plain load, from the download cache and without a network.

    python benchmarks/loading_cost.py                     # a random model of 1 GB, in one file and in shards
    python benchmarks/loading_cost.py --gigabytes 0.1 --rounds 3
    python benchmarks/loading_cost.py --write             # also into benchmarks/loading_cost.md

Makes a random Llama, publishes it into a folder with made-up scores, and lays that out as the download cache does.
Then, in turn and after one round that is not counted: a plain load, hashing all files, a verified load, and a verified
load that believes remembered digests. Prints medians and the ratio of a verified load to plain load plus hashing. All
files are in the page cache, so "at disk speed" is here the speed of memory. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.metadata
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
REPO, COMMIT = "owner/model", "c" * 40
HIDDEN, LAYER_BYTES, REST_BYTES = 1024, 4 * (4 * 1024**2 + 3 * 1024 * 4096), 4 * 2 * 32000 * 1024
TABLE = Path(__file__).with_suffix(".md")


def make_model(folder: Path, gigabytes: float, shards: int) -> None:
    """A random Llama in float32 of about this size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers = max(1, round((gigabytes * 1e9 - REST_BYTES) / LAYER_BYTES))
    vocabulary = 32000 if gigabytes >= 0.5 else 2048
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=f"{-(-size // shards) // 10**6 + 1}MB" if shards > 1 else "100GB")


def publish(source: Path, out: Path) -> None:
    """Publish it with made-up scores that pass."""
    from hf_unlearn.hub.folders import publish_to_folder
    from hf_unlearn.hub.metadata import CardWords
    from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
    from hf_unlearn.verification.digests import folder_digests
    from hf_unlearn.verification.gate import Gate
    from hf_unlearn.verification.report import ModelInfo, SetInfo
    from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
    from hf_unlearn.verification.verdict import judge

    table, noise = ScoreTable(), random.Random(0)
    for model, level in {"target": 0.9, "method": 0.05, "never_knew": 0.05}.items():
        for split in ("forget", "retain"):
            mean = 0.9 if split == "retain" else level
            values = {f"{split}{number}": mean + noise.uniform(-0.03, 0.03) for number in range(60)}
            facts = FactScores(values, {name: name for name in values})
            table.add(ScoreKey(model, "identity", split, "probability"), facts)
    gate = Gate(metrics=("probability",), formats=(), attacks=(), draws=200)
    report = build_report(
        Findings(table, gate, [judge(table, "method", gate)], ["method"]),
        Candidate("method", {"identity": folder_digests(source)}),
        RunFacts(
            name="loading-cost",
            created="2026-01-01T00:00:00+00:00",
            target=ModelInfo(description="random model"),
            never_knew=ModelInfo(description="random model"),
            data={"forget": SetInfo(60, 60, "0" * 64)},
        ),
    )
    words = CardWords(title="Random model", removed="nothing")
    publish_to_folder(source, {}, report, words, out_main=out, out_variants={})


def lay_out(folder: Path, cache: Path) -> Path:
    """A published folder as a snapshot in the download cache: links into blobs that are named by their content."""
    storage = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    (storage / "blobs").mkdir()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        blob = storage / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.replace(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def measure(work: Path, gigabytes: float, shards: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    from huggingface_hub import constants
    from transformers import AutoModelForCausalLM

    from hf_unlearn import VerifiedModel
    from hf_unlearn.verification.digests import hash_files, list_files

    make_model(work / "model", gigabytes, shards)
    publish(work / "model", work / "published")
    snapshot = lay_out(work / "published", work / "cache")
    constants.HF_HUB_CACHE = str(work / "cache")
    os.environ["XDG_CACHE_HOME"] = str(work / "xdg")
    names = list_files(snapshot, links_within=work)[0]
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: AutoModelForCausalLM.from_pretrained(snapshot, local_files_only=True),
        "hash": lambda: hash_files(snapshot, names),
        "verified": lambda: VerifiedModel.from_pretrained(REPO),
        "remembered": lambda: VerifiedModel.from_pretrained(REPO, reuse_digests=True),
    }
    time.sleep(2.5)  # digests of younger files are not remembered
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            gc.collect()
            start = time.perf_counter()
            kept = way()
            seconds = time.perf_counter() - start
            del kept
            if number:
                found[name].append(seconds)
    found["bytes"] = [float(sum((snapshot / name).stat().st_size for name in names))]
    return found


def row(shards: int, found: dict[str, list[float]]) -> str:
    """One line of the table."""
    seconds = {name: statistics.median(values) for name, values in found.items()}
    size = seconds["bytes"] / 1e9
    ratio = seconds["verified"] / (seconds["plain"] + 2 * seconds["hash"])
    return (
        f"| {size:.2f} GB in {shards} file{'s' * (shards > 1)} | {seconds['plain']:.2f} s | {seconds['hash']:.2f} s "
        f"({size / seconds['hash']:.1f} GB/s) | {seconds['verified']:.2f} s | **{ratio:.2f}** | "
        f"{seconds['remembered']:.2f} s | {seconds['remembered'] / seconds['plain']:.2f} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} too")
    arguments = parser.parse_args()
    lines = [
        "| model | plain load | one hash | verified load | / (plain + 2 hash) | digests remembered | / plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for shards in arguments.shards:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(shards, measure(Path(folder), arguments.gigabytes, shards, arguments.rounds)))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
    caption = (
        f"Medians of {arguments.rounds} rounds, files in the page cache; {os.cpu_count()} CPU cores, {versions}, "
        f"Python {sys.version.split()[0]}."
    )
    print("\n".join([*lines, "", caption]))
    if arguments.write:
        about = (
            "# Cost of verified loading\n\nMade by `python benchmarks/loading_cost.py --write`; no test asserts it.\n"
        )
        TABLE.write_text("\n".join([about, *lines, "", caption, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
