"""Linear probe: is the answer in the hidden states, whatever the output head makes of them?

From retain rows alone a linear map is fitted, layer by layer, from the hidden state at the end of a question to the
embedding of its answer. Then the forget set is asked: the option whose embedding is nearest to the map's output is the
probe's answer. The map has seen no forgotten question and no forgotten answer's question, so it cannot have learned
one; what it reads was in the states. As a control it is asked for facts that no model was trained on.

Sources: Alain and Bengio, arXiv 1610.01644 (linear probes of layers); Hewitt and Liang, arXiv 1909.03368 (a probe says
something only beside a control task); Patil et al., arXiv 2309.17410 (hidden states as an attack on unlearning).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..data.encoding import TextFormat, encode_answer, encode_row
from ..data.example import DataBundle, Example
from ..errors import RequestError
from ..evaluation.records import ScoredRow, write_records
from . import ATTACKS
from .base import LAYERS, Attack, Attacked, AttackResult
from .best import best_of, read_try
from .cost import AttackCost
from .model_cache import borrowed
from .prompting import check_questions, question_budget
from .scoring import Asked, ask

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_JOB = "layers"
_METRIC = "mc_accuracy"
_CONTROL = "control.json"


@ATTACKS.register(
    "linear-probe",
    summary="read the right option from the hidden states with a linear map fitted on retain rows",
    paper="arXiv 1610.01644 (probes), arXiv 1909.03368 (control), arXiv 2309.17410 (as an attack)",
    defaults={"examples": 256, "layers": 8, "ridge": 0.1},
    needs=("never-knew control", "retain", "options"),
    tier="release",
)
@dataclass(frozen=True)
class LinearProbe(Attack):
    """Settings of the probe. It scores ``mc_accuracy`` only, and is reported unless a gate names it.

    Attributes:
        examples: Maximum number of retain rows to fit the map on, drawn once with the seed.
        layers: Number of layers to probe, evenly spread, including the last; the attacker keeps the best.
        ridge: Penalty on the map's squared weights, per row, for states of unit variance.
        seed: Seed of the draw.
    """

    examples: int = 256
    layers: int = 8
    ridge: float = 0.1
    seed: int = 0

    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.examples < 2:
            raise RequestError(f"linear-probe.examples is {self.examples}: a map needs at least 2 rows")
        if self.layers < 1:
            raise RequestError(f"linear-probe.layers is {self.layers}: it must be at least 1")
        if not self.ridge > 0:
            raise RequestError(f"linear-probe.ridge is {self.ridge}: it must be above 0")

    def plan(self, bundle: DataBundle) -> list[str]:
        """One job: all layers are read in the same forward."""
        rows = bundle.forget.score
        check_questions("linear-probe", rows)
        row = next((row for row in rows if not options_of(row)), None)
        if row is not None:
            raise RequestError(
                f"{row.origin or row.id}: linear-probe chooses among options, and this row has none: give the "
                "forget rows options (choices) or wrong answers (perturbed_answer), or leave linear-probe out"
            )
        if len(self._train_rows(bundle)) < 2:
            raise RequestError(
                "linear-probe is fitted on retain rows with prompts whose groups hold no forgotten fact, and there "
                "are fewer than 2: give the retain set such rows, or leave linear-probe out"
            )
        return [_JOB]

    def run_job(self, job: str, attacked: Attacked, out: Path) -> None:
        """Fit and ask the probe after each layer; write what the model itself chooses as layer 0."""
        from ..evaluation.hidden import spread_layers
        from ..models.decoder import decoder_layers

        train, fmt = self._train_rows(attacked.bundle), attacked.text_format
        asked = [_with_options(row) for row in attacked.bundle.forget.score]
        never = [_with_options(row) for row in attacked.bundle.holdout.score if row.prompt and options_of(row)]
        with borrowed(attacked.folder, edits=False) as cached:
            model, tokenizer = cached.model, cached.tokenizer
            floor = tuple(never) if attacked.bundle.floor else ()
            own = ask(model, tokenizer, Asked(tuple(asked), fmt, holdout=floor), [_METRIC])
            write_records(out / "layer0.jsonl", map(_value_only, own))
            numbers = spread_layers(len(decoder_layers(model)), self.layers)
            states = [_states(model, tokenizer, rows, fmt, numbers) for rows in (train, asked, never)]
            codes = AnswerCodes(model, tokenizer, fmt)
            answers = codes.of([(row, row.answer) for row in train])
            options = [codes.of([(row, option) for option in row.choices]) for row in asked]
            never_options = [codes.of([(row, option) for option in row.choices]) for row in never]
        shuffled = random.Random(f"probe-control-{self.seed}").sample(range(len(train)), len(train))
        accuracy: dict[int, float] = {}
        for place, number in enumerate(numbers):
            known, wanted, unknown = (part[:, place] for part in states)
            probe = RidgeMap(known, answers, self.ridge)
            found = _choose(probe(wanted), options, asked)
            if never:
                control = _choose(probe(unknown), never_options, never, "holdout")
            else:
                control = _choose(RidgeMap(known, answers[shuffled], self.ridge)(wanted), options, asked)
            write_records(out / f"layer{number}.jsonl", [*found, *(control if floor else ())])
            accuracy[number] = _mean(control)
        told = {"kind": "holdout" if never else "shuffled answers", "accuracy": accuracy}
        (out / _CONTROL).write_text(json.dumps(told), encoding="utf-8")

    def collect(self, folders: Mapping[str, Path], metrics: tuple[str, ...]) -> AttackResult:
        """The best layer; what the model itself chooses is among them."""
        found = {int(path.stem.removeprefix("layer")): path for path in folders[_JOB].glob("layer*.jsonl")}
        tries = [read_try(path, layer, changed=layer > 0) for layer, path in sorted(found.items())]
        result = best_of(tries, [_METRIC], setting_name="layer")
        control = json.loads((folders[_JOB] / _CONTROL).read_text(encoding="utf-8"))
        # Where the model's own choice was best, the layer with the highest control is recorded with it.
        by_layer = control["accuracy"]
        details = [
            {
                **detail,
                "control": control["kind"],
                "control_accuracy": by_layer.get(str(detail["layer"]), max(by_layer.values())),
            }
            for detail in result.details
        ]
        return replace(result, details=details)

    def budget(self, bundle: DataBundle) -> dict[str, Any]:
        """Rows the map is fitted on, and the control."""
        given = "weights, prompts and options of the forget set, retain rows"
        holdout = any(row.prompt and options_of(row) for row in bundle.holdout.score)
        return {
            **question_budget(bundle, given),
            "trained": "a linear map per layer, on retain rows",
            "rows_fitted": len(self._train_rows(bundle)),
            "layers": self.layers,
            "control": "holdout facts" if holdout else "retain answers shuffled",
        }

    def measures(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """Choices among options, nothing else."""
        return tuple(metric for metric in metrics if metric == _METRIC)

    def cost(self, bundle: DataBundle) -> AttackCost:
        """A pass over all rows that are looked at."""
        asked = 2 * len(bundle.forget.score) + len(bundle.holdout.score) + len(self.floor_rows(bundle))
        return AttackCost(1, rows_scored=asked + len(self._train_rows(bundle)))

    def records_kept(self, bundle: DataBundle) -> int:
        """One for each layer, of values alone: half as long as others at most."""
        return LAYERS * self.rows_per_pass(bundle) // 2

    def floor_rows(self, bundle: DataBundle) -> tuple[Example, ...]:
        """Those with a prompt and options: what the control is asked for anyway."""
        return tuple(row for row in bundle.floor if row.prompt and options_of(row))

    def _train_rows(self, bundle: DataBundle) -> list[Example]:
        forgotten = {row.group for row in bundle.forget}
        rows = [row for row in bundle.retain.score if row.prompt and row.group not in forgotten]
        return random.Random(f"probe-{self.seed}").sample(rows, min(self.examples, len(rows)))


class RidgeMap:
    """Ridge regression in float64, after each input was brought to mean 0 and variance 1.

    ``W = argmin ||Z W - (Y - mean Y)||^2 + ridge * n * ||W||^2``, solved over rows or inputs, whichever are fewer.

    Args:
        inputs: ``[n, width]``.
        outputs: ``[n, code]``.
        ridge: Penalty, above 0.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, ridge: float) -> None:
        import torch

        x, y = inputs.double(), outputs.double()
        self._center, self._middle = x.mean(0), y.mean(0)
        spread = x.std(0, correction=0)
        self._spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        z, y = (x - self._center) / self._spread, y - self._middle
        penalty = ridge * len(z)
        if len(z) < z.shape[1]:
            inner = z @ z.T + penalty * torch.eye(len(z), dtype=z.dtype)
            self._weights = z.T @ torch.linalg.solve(inner, y)
        else:
            inner = z.T @ z + penalty * torch.eye(z.shape[1], dtype=z.dtype)
            self._weights = torch.linalg.solve(inner, z.T @ y)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs ``[rows, code]`` for inputs ``[rows, width]``."""
        return (inputs.double() - self._center) / self._spread @ self._weights + self._middle


class AnswerCodes:
    """A vector for every answer text: the mean of its tokens' output embeddings, and of their input embeddings.

    Each half is scaled to a mean squared norm of 1 over the vocabulary, so that neither outweighs the other. If
    the head is quantized or all zeros, only the input embeddings are used: they represent the answer
    also in a model whose head was tampered with.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat) -> None:
        tables = []
        for module in (model.get_output_embeddings(), model.get_input_embeddings()):
            weight = getattr(module, "weight", None)
            if weight is None or weight.ndim != 2 or not weight.is_floating_point():
                continue
            table = weight.detach().float().cpu()
            size = table.square().sum(1).mean().sqrt()
            if size > 0 and size.isfinite():
                tables.append(table / size)
        if not tables:
            raise RequestError(f"the embeddings of {type(model).__name__} cannot be read: leave linear-probe out")
        self._tables, self._tokenizer, self._fmt = tables, tokenizer, fmt

    def of(self, answers: Sequence[tuple[Example, str]]) -> Tensor:
        """Codes ``[answers, code]`` of answers to rows, on the CPU."""
        import torch

        found = []
        for row, answer in answers:
            encoded = encode_answer(row, answer, self._tokenizer, self._fmt)
            tokens = list(encoded.input_ids[encoded.n_prompt :])
            found.append(torch.cat([table[tokens].mean(0) for table in self._tables]))
        return torch.stack(found)


def options_of(row: Example) -> tuple[str, ...]:
    """The row's options, or its answer and the wrong ones in its form; empty if it has neither."""
    perturbed = dict(row.variants).get("perturbed", ())
    return row.choices or tuple(dict.fromkeys((row.answer, *perturbed)) if perturbed else ())


def _with_options(row: Example) -> Example:
    return replace(row, choices=options_of(row))


def _states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    fmt: TextFormat,
    layers: Sequence[int],
) -> Tensor:
    """States ``[rows, layers, width]`` at the token that predicts the first token of the answer."""
    import torch

    from ..evaluation.batch_runner import Passes
    from ..evaluation.hidden import mean_states
    from ..models.memory import batch_budget

    if not rows:
        return torch.zeros(0, len(layers), 1)
    encoded = [encode_row(row, tokenizer, fmt, eos=False) for row in rows]
    prompts = [row.input_ids[: row.n_prompt] for row in encoded]
    starts = [len(prompt) - 1 for prompt in prompts]
    return mean_states(model, prompts, starts, layers, Passes(batch_budget("auto", model.device)))


def _choose(
    outputs: Tensor, options: Sequence[Tensor], rows: Sequence[Example], split: str = "forget"
) -> list[ScoredRow]:
    """Records of the options nearest to the map's outputs, by the metric that judges any other choice."""
    from ..evaluation.metrics import apply_metrics
    from ..evaluation.scoring import right_choice

    records = []
    for output, codes, row in zip(outputs, options, rows, strict=True):
        nearness = -(codes.double() - output).square().sum(1)
        records.append(
            ScoredRow(
                row.id,
                row.fact,
                row.group,
                split,
                choice_logps=tuple(nearness.tolist()),
                choice_lengths=(1,) * len(codes),
                right_choice=right_choice(row),
            )
        )
    return [_value_only(record) for record in apply_metrics(records, [_METRIC])]


def _value_only(record: ScoredRow) -> ScoredRow:
    return replace(record, logps=(), hits=(), choice_logps=(), choice_lengths=())


def _mean(records: Sequence[ScoredRow]) -> float:
    from ..evaluation.records import fact_scores

    ((_, scores),) = fact_scores(records).items()
    return scores.mean
