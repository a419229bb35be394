"""Scoring in one pass against one pass per metric, and batched generation against one prompt at a time.

    python benchmarks/scoring_cost.py                      # about five minutes on two cores
    python benchmarks/scoring_cost.py --rows 16 --repeats 1 --output /tmp/cost.md
    python benchmarks/scoring_cost.py --model FOLDER --data rows.jsonl

Both sides score the same rows with the same model in one process, in turn, several times; memory is that of a process
of its own for each side. Nothing is asserted: the table goes to benchmarks/scoring_cost.md.

What the other side does is what the common evaluation code does, written down plainly here:

- likelihood: one pass over the rows for every metric (probability, paraphrased and perturbed answers, extraction
  strength, exact memorization, and the attacks loss, zlib, min-k and min-k++ on forget and holdout rows, the last of
  them forwarding twice). Each pass encodes the rows again, takes batches of 32 in file order, pads to the longest and
  computes logits at all positions. The perturbed answers are five passes that repeat the prompt.
- generation: one prompt at a time, with a key-value cache.

Gradient norms cost the same on both sides (one backward a row) and are left out, as is the reference attack, which
adds a second model to both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hf_unlearn.data.encoding import TextFormat, encode_answer, encode_prompt
from hf_unlearn.data.example import Example
from hf_unlearn.evaluation.batch_runner import Passes
from hf_unlearn.evaluation.generation import Prompt, generate
from hf_unlearn.evaluation.scoring import score_rows
from hf_unlearn.models.memory import batch_budget

WORDS = 8000
PLAIN = TextFormat(template="Question: {prompt}\nAnswer:", separator=" ")
# What a chat template with a system prompt and a date puts around a question, about forty tokens.
CHAT_LIKE = TextFormat(template=" ".join(f"w{word}" for word in range(36)) + " {prompt} Answer:", separator=" ")
NEEDS = frozenset({"variants:paraphrased", "variants:perturbed", "vocabulary", "text"})
PEER_BATCH = 32
NEW_TOKENS = 128


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    forget: tuple[Example, ...]
    holdout: tuple[Example, ...]
    prompts: tuple[Example, ...]
    new_tokens: int
    format: TextFormat

    def small(self) -> Work:
        """Enough to warm up."""
        return replace(self, forget=self.forget[:4], holdout=self.holdout[:4], prompts=self.prompts[:2])


def main() -> None:
    arguments = parser().parse_args()
    if arguments.only:
        name, side = arguments.only
        work, function = tasks(prepare(arguments))[name]
        function[side](work)
        print(peak_mebibytes())
        return
    lines = [
        "| what | theirs, s | ours, s | ratio | peak memory theirs, MiB | ours, MiB |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    prepared = prepare(arguments)
    for name, (work, sides) in tasks(prepared).items():
        times, note = compare(work, sides, arguments.repeats)
        ratios = [theirs / ours for theirs, ours in zip(times["theirs"], times["ours"], strict=True)]
        memory = [memory_of(name, side) for side in sides]
        medians = [statistics.median(times[side]) for side in sides]
        lines.append(
            f"| {name} | {medians[0]:.1f} | {medians[1]:.1f} | **{statistics.median(ratios):.1f}** "
            f"({min(ratios):.1f} to {max(ratios):.1f}) | {memory[0]} | {memory[1]} |"
        )
        notes.append(f"{name}: {note}")
    text = "\n".join([header(arguments, prepared), *lines, "", *(f"- {note}" for note in notes), ""])
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


def tasks(work: Work) -> dict[str, tuple[Work, dict[str, Callable[[Work], list[Any]]]]]:
    """What is compared, with both sides of it."""
    likelihood = {"theirs": likelihood_theirs, "ours": likelihood_ours}
    generation = {"theirs": generation_theirs, "ours": generation_ours}
    return {
        "likelihood, chat prompts": (replace(work, format=CHAT_LIKE), likelihood),
        "likelihood, bare prompts": (work, likelihood),
        "generation": (work, generation),
    }


def compare(
    work: Work, sides: dict[str, Callable[[Work], list[Any]]], repeats: int
) -> tuple[dict[str, list[float]], str]:
    """Seconds of both sides, in turn, and a sentence on how far their results are apart."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    results: dict[str, list[Any]] = {}
    for function in sides.values():
        function(work.small())
    for _ in range(repeats):
        for side, function in sides.items():
            start = time.perf_counter()
            results[side] = function(work)
            times[side].append(time.perf_counter() - start)
    return times, difference_note(results["theirs"], results["ours"])


def difference_note(theirs: Sequence[Any], ours: Sequence[Any]) -> str:
    if isinstance(ours[0], str):
        same = sum(one == other for one, other in zip(theirs, ours, strict=True))
        return f"{same} of {len(ours)} texts are the same on both sides."
    largest = max(abs(one - other) for one, other in zip(theirs, ours, strict=True))
    return f"log-probabilities of answers differ by at most {largest:.1e} nats per token."


def likelihood_theirs(work: Work) -> list[float]:
    """One pass per metric. Returns the mean log-probability per token of every answer of the forget set."""
    both = [(row, row.answer) for row in (*work.forget, *work.holdout)]
    own = both[: len(work.forget)]
    variants = [dict(row.variants) for row in work.forget]
    found = peer_pass(work, own, "mean")  # probability
    paraphrased = [(row, kinds["paraphrased"][0]) for row, kinds in zip(work.forget, variants, strict=True)]
    found += peer_pass(work, paraphrased, "mean")
    for number in range(len(variants[0]["perturbed"])):
        wrong = [(row, kinds["perturbed"][number]) for row, kinds in zip(work.forget, variants, strict=True)]
        found += peer_pass(work, wrong, "mean")
    peer_pass(work, own, "hits")  # extraction strength
    peer_pass(work, own, "hits")  # exact memorization
    for _ in ("loss", "zlib"):
        peer_pass(work, both, "mean")
    peer_pass(work, both, "logps")  # min-k
    peer_pass(work, both, "logps")  # min-k++ begins as min-k
    peer_pass(work, both, "vocabulary")
    return found


def peer_pass(work: Work, texts: Sequence[tuple[Example, str]], keep: str) -> list[float]:
    """Encode, batch in file order, pad to the longest, compute logits everywhere, keep one thing."""
    found: list[float] = []
    encoded = [encode_answer(row, answer, work.tokenizer, work.format) for row, answer in texts]
    for start in range(0, len(encoded), PEER_BATCH):
        rows = encoded[start : start + PEER_BATCH]
        width = max(len(row.input_ids) for row in rows)
        ids, mask = (
            torch.zeros((len(rows), width), dtype=torch.long),
            torch.zeros((len(rows), width), dtype=torch.long),
        )
        labels = torch.full((len(rows), width), -100)
        for place, row in enumerate(rows):
            length = len(row.input_ids)
            ids[place, :length] = torch.tensor(row.input_ids)
            mask[place, :length] = 1
            labels[place, row.n_prompt : length] = ids[place, row.n_prompt : length]
        ids, mask, labels = (item.to(work.model.device) for item in (ids, mask, labels))
        with torch.inference_mode():
            logits = work.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            found += peer_values(logits, labels[:, 1:], keep)
    return found


def peer_values(logits: torch.Tensor, labels: torch.Tensor, keep: str) -> list[float]:
    counted = labels != -100
    if keep == "mean":
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(-1, -2).float(), labels, ignore_index=-100, reduction="none"
        )
        return (-losses.sum(-1) / counted.sum(-1)).tolist()
    if keep == "hits":
        return ((logits.argmax(-1) == labels) & counted).sum(-1).tolist()
    logps = logits.float().log_softmax(-1)
    if keep == "logps":
        return logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0].sum(-1).tolist()
    means = (logps.exp() * logps).sum(-1)
    variances = (logps.exp() * logps.square()).sum(-1) - means.square()
    return (means + variances).sum(-1).tolist()


def likelihood_ours(work: Work) -> list[float]:
    """One pass for everything."""
    sets = {"forget": work.forget, "holdout": work.holdout}
    needs = {"forget": NEEDS, "holdout": frozenset({"vocabulary", "text"})}
    records = score_rows(work.model, work.tokenizer, sets, work.format, needs=needs, passes=our_passes(work))
    forget = records[: len(work.forget)]
    found = [sum(row.logps) / len(row.logps) for row in forget]
    found += [row.variants["paraphrased"][0].mean for row in forget]
    for number in range(len(forget[0].variants["perturbed"])):
        found += [row.variants["perturbed"][number].mean for row in forget]
    return found


def generation_theirs(work: Work) -> list[str]:
    """One prompt at a time."""
    texts = []
    for row in work.prompts:
        ids = torch.tensor([encode_prompt(row, work.tokenizer, work.format)], device=work.model.device)
        with torch.inference_mode():
            output = work.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=work.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        texts.append(str(work.tokenizer.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=True)))
    return texts


def generation_ours(work: Work) -> list[str]:
    """In batches."""
    prompts = [
        Prompt(encode_prompt(row, work.tokenizer, work.format), row.id, work.new_tokens) for row in work.prompts
    ]
    return generate(work.model, work.tokenizer, prompts, our_passes(work))


def our_passes(work: Work) -> Passes:
    return Passes(batch_budget("auto", work.model.device))


def prepare(arguments: argparse.Namespace) -> Work:
    """Model and rows: made here, or those of the user."""
    torch.manual_seed(0)
    rng = random.Random(0)
    if arguments.model:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(device)
    else:
        tokenizer, model = word_tokenizer(), small_llama()
    model.eval()
    model.generation_config.eos_token_id = None  # both sides write all tokens
    tokenizer.eos_token = None
    rows = read_rows(arguments.data, rng) if arguments.data else made_rows(2 * arguments.rows, rng)
    half = min(arguments.rows, len(rows) // 2)
    prompts = tuple(
        Example(f"p{number}", words(rng, rng.randint(30, 400)), "", "", "") for number in range(arguments.prompts)
    )
    return Work(model, tokenizer, rows[:half], rows[half : 2 * half], prompts, arguments.new_tokens, PLAIN)


def made_rows(count: int, rng: random.Random) -> tuple[Example, ...]:
    """Questions and answers of TOFU's lengths in tokens: short questions, answers of some twenty to ninety."""
    return tuple(
        row(f"r{number}", words(rng, rng.randint(10, 24)), [answer(rng) for _ in range(7)]) for number in range(count)
    )


def row(name: str, question: str, answers: Sequence[str]) -> Example:
    variants = (("paraphrased", (answers[1],)), ("perturbed", tuple(answers[2:])))
    return Example(name, question, answers[0], name, name, variants=variants)


def answer(rng: random.Random) -> str:
    return words(rng, round(min(90, max(12, rng.gauss(46, 16)))))


def words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(WORDS)}" for _ in range(count))


def read_rows(path: Path, rng: random.Random) -> tuple[Example, ...]:
    """Rows of a JSONL file with ``question`` and ``answer``; other rows' answers stand in for missing variants."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines):
        others = [rng.choice(lines)["answer"] for _ in range(6)]
        paraphrased = line.get("paraphrased_answer", others[0])
        perturbed = line.get("perturbed_answer", others[1:])
        rows.append(row(f"r{number}", line["question"], [line["answer"], paraphrased, *perturbed]))
    return tuple(rows)


def word_tokenizer() -> PreTrainedTokenizerBase:
    vocabulary = {"<pad>": 0, "<unk>": 1}
    for word in ("Question", ":", "Answer", *(f"w{number}" for number in range(WORDS))):
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def small_llama() -> PreTrainedModel:
    """The output head is about a third of the rest, as in models of one billion parameters."""
    config = LlamaConfig(
        vocab_size=WORDS + 192,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def memory_of(name: str, side: str) -> int:
    """Peak resident MiB of a process that does one side once."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name, side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_mebibytes() -> int:
    """Peak resident memory of this process; the usual call would give that of its parent where that is higher."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def header(arguments: argparse.Namespace, work: Work) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    parameters = sum(parameter.numel() for parameter in work.model.parameters()) / 1e6
    where = f"{torch.get_num_threads()} threads of {processor()}"
    if work.model.device.type == "cuda":
        where = torch.cuda.get_device_name()
    return (
        "# What scoring costs\n\n"
        f"{time.strftime('%Y-%m-%d')}, {where}; Python {platform.python_version()}, {versions}. A Llama of "
        f"{parameters:.1f} million parameters, float32; {len(work.forget)} forget rows with a paraphrased and "
        f"{len(dict(work.forget[0].variants)['perturbed'])} perturbed answers, {len(work.holdout)} holdout rows; "
        f"{len(work.prompts)} prompts of 30 to 400 words, {work.new_tokens} new tokens. Medians of "
        f"{arguments.repeats} runs of each side in turn; in brackets the smallest and largest ratio. Made by "
        "`python benchmarks/scoring_cost.py`, where what the other side does is written down.\n"
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rows", type=int, default=32, help="forget rows, and as many holdout rows (TOFU has 400)")
    found.add_argument("--prompts", type=int, default=24)
    found.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--model", help="folder or Hub id in place of the made model")
    found.add_argument("--data", type=Path, help="JSONL with question and answer in place of the made rows")
    found.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    found.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    return found


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
