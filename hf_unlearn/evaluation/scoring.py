"""One teacher-forced pass over all rows, their options and variants. Every likelihood metric is made from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..data.encoding import EncodedRow, TextFormat, encode_answer, encode_row
from ..data.example import Example
from ..errors import RequestError
from ..models.limits import refuse_unfit
from .batch import TokenTree, grow_trees, kept_trees, tree_batch
from .batch_runner import Passes
from .encoded import known_texts
from .lens import LogitLens, Translator
from .logits import SelectedLogits
from .records import AnswerScore, ScoredRow
from .spec import VARIANTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What is computed if no needs are given.
USUAL_NEEDS = frozenset({"options"})


class TextScores(NamedTuple):
    """Scores of the labels of one text.

    Attributes:
        logps: Log-probability (nats) of each label given all tokens before it.
        hits: Whether each label was the most likely token.
        means: Mean log-probability of the next token under the model's own distribution, if requested.
        variances: Its variance, if requested.
        layers: Mean log-probability per label after each layer, if requested.
        layer_logps: Log-probability of each label after each layer, where asked for: ``[layers][labels]``.
        layer_hits: Whether each label was the most likely token after each layer, if requested.
    """

    logps: tuple[float, ...]
    hits: tuple[bool, ...]
    means: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()
    layers: tuple[float, ...] = ()
    layer_logps: tuple[Sequence[float], ...] = ()
    layer_hits: tuple[Sequence[bool], ...] = ()


class NotFiniteError(RequestError):
    """The model's logits are not finite: a valid result of an attack that trains, otherwise a broken model."""


@dataclass(frozen=True)
class LabelledText:
    """A text as an encoded row, and what is needed besides log-probabilities and hits.

    Attributes:
        row: The encoded row.
        vocabulary: Whether mean and variance over the vocabulary are wanted.
        layers: Whether log-probabilities after each layer are wanted.
        layer_tokens: With ``layers``: whether those of each label are wanted, and not only their mean.
    """

    row: EncodedRow
    vocabulary: bool = False
    layers: bool = False
    layer_tokens: bool = False


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Sequence[Example]],
    fmt: TextFormat,
    *,
    batch_tokens: int = 4096,
    needs: Mapping[str, Collection[str]] | None = None,
    passes: Passes | None = None,
    prefill: str = "",
) -> list[ScoredRow]:
    """Score rows, their options and variants by teacher forcing.

    Args:
        model: In eval mode, quantized or not.
        tokenizer: The model's tokenizer.
        sets: Rows by set name.
        fmt: How prompt and answer become one text.
        batch_tokens: Tokens per forward, padding included.
        needs: By set name, what records must hold (see :data:`~hf_unlearn.evaluation.spec.NEEDS`); the options where
            it is left out. Rows that lack something are scored without it.
        passes: Runs the batches; ``batch_tokens`` is then not read.
        prefill: Text with which every answer is made to begin. It is given to the model and not scored.

    Returns:
        One record per row, in the order of ``sets`` and of their rows, without metric values and continuations.

    Raises:
        RequestError: A row has an empty answer or option, its options lack the answer, it is longer than the model's
            context, or the model's logits on it are not finite. The message names the row.
    """
    rows = [(name, row, (needs or {}).get(name, USUAL_NEEDS)) for name, members in sets.items() for row in members]
    encoder = _Encoder(tokenizer, fmt, prefill)
    asked = [_Asked(row, wanted, encoder) for _, row, wanted in rows]
    texts = [text for item in asked for text in item.texts]
    origins = {row.id: row.origin or row.id for _, row, _ in rows}
    scores = iter(score_texts(model, texts, passes or Passes(batch_tokens), origins=origins))
    return [
        item.record(name, row, [next(scores) for _ in item.texts])
        for (name, row, _), item in zip(rows, asked, strict=True)
    ]


def score_labels(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    batch_tokens: int = 4096,
    origins: Mapping[str, str] | None = None,
) -> list[TextScores]:
    """Scores of the labels of encoded rows, in order. See :func:`score_texts`."""
    return score_texts(model, [LabelledText(row) for row in rows], Passes(batch_tokens), origins=origins)


def score_texts(
    model: PreTrainedModel,
    texts: Sequence[LabelledText],
    passes: Passes,
    *,
    origins: Mapping[str, str] | None = None,
    translators: Mapping[int, Translator] | None = None,
) -> list[TextScores]:
    """Scores of the labels of encoded rows, in order.

    What predicts the last label is everything before it, so the last token is never fed. Rows with the same prompt
    share it: they are fed as one tree of tokens where the model's attention allows it (see :mod:`.trees`), and rows
    that feed the same tokens are run once in any case.

    Args:
        model: In eval mode.
        texts: Encoded rows.
        passes: Runs the batches.
        origins: Row id to the file and line it came from, for messages.
        translators: What is put before the final norm where layers are read, by the number of the layer from 0.

    Raises:
        RequestError: A row is longer than the model's context, the model's logits on it are not finite, or layers
            are wanted of a family whose layers are not known.
    """
    if not texts:
        return []
    check_lengths(model, [text.row for text in texts], origins or {})
    logits = SelectedLogits(model)
    lens = LogitLens(model, logits, translators) if any(text.layers for text in texts) else None
    fed = [text.row.input_ids[:-1] for text in texts]
    keys = [_prompt_key(text.row) for text in texts]
    # Whether trees are exact is only tested if there are any.
    branching = logits.longest_branching if len(set(keys)) < len(set(fed)) else 0
    trees = kept_trees(fed, keys, getattr(model.config.get_text_config(), "hidden_size", 1024), branching)
    sizes = [len(tree.tokens) for tree in trees]
    kinds = [tree.is_chain for tree in trees]

    def work(members: Sequence[int]) -> list[Any]:
        return _score_batch(logits, lens, [trees[member] for member in members], texts, origins or {})

    with torch.inference_mode():
        found = passes.run("likelihood", sizes, work, kinds=kinds)
    scores: dict[int, TextScores] = {}
    for tree, of_tree in zip(trees, found, strict=True):
        for member, values in zip(tree.members, of_tree, strict=True):
            scores[member] = TextScores(*(tuple(part) for part in values))
    return [scores[index] for index in range(len(texts))]


def check_lengths(model: PreTrainedModel, rows: Sequence[EncodedRow], origins: Mapping[str, str]) -> None:
    """Raise :class:`RequestError` for the first row that the model cannot read: too long, or with unknown tokens."""
    refuse_unfit(model, rows, origins)


def encode_prefilled(
    row: Example, answer: str, prefill: str, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat
) -> EncodedRow:
    """The row's prompt, the prefilled words, and an answer, of which only the answer's tokens are labels.

    Those words come where the answer would begin: after the separator, or in a conversation at the start of the
    assistant's message. A token that spans the boundary of prefill and answer counts as the answer's, as everywhere.

    Args:
        row: Its prompt is asked; its own answer is not read.
        answer: What is scored.
        prefill: What comes before it, without white space around it.
        tokenizer: The model's tokenizer.
        fmt: How prompt and answer become one text.

    Raises:
        RequestError: See :func:`~hf_unlearn.data.encoding.encode_row`.
    """
    bare = answer.lstrip()
    space = answer[: len(answer) - len(bare)]
    begun = encode_answer(row, space + prefill, tokenizer, fmt)
    whole = encode_answer(row, f"{space}{prefill}{space or ' '}{bare}", tokenizer, fmt)
    same = 0
    for one, other in zip(begun.input_ids, whole.input_ids, strict=False):
        if one != other:
            break
        same += 1
    # The answer has a token of its own, even if a chat template writes the prefill as it writes prefill and answer.
    return replace(whole, n_prompt=max(whole.n_prompt, min(same, len(whole.input_ids) - 1)))


class _Encoder:
    """Token ids of a row with one of its answers. Rows that differ only in their options share them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, fmt: TextFormat, prefill: str = "") -> None:
        self._tokenizer = tokenizer
        self._fmt = fmt
        self._prefill = prefill
        self._known = known_texts(tokenizer, fmt, prefill)

    @property
    def separator(self) -> str:
        return self._fmt.separator

    def encode(self, row: Example, answer: str) -> EncodedRow:
        key = (row.turns, row.conversational, row.prompt, answer)
        if key not in self._known:
            own = answer == row.answer
            tokenizer, fmt = self._tokenizer, self._fmt
            if self._prefill:
                self._known[key] = encode_prefilled(row, answer, self._prefill, tokenizer, fmt)
            else:
                self._known[key] = (
                    encode_row(row, tokenizer, fmt, eos=False) if own else encode_answer(row, answer, tokenizer, fmt)
                )
        found = self._known[key]
        return EncodedRow(row.id, found.input_ids, found.n_prompt, row.group, found.labels, found.n_end)


class _Asked:
    """The texts of one row, and the record that their scores make."""

    def __init__(self, row: Example, needs: Collection[str], encoder: _Encoder) -> None:
        options = row.choices if "options" in needs else ()
        prior = row.choices if "prior" in needs and row.prior_prompt else ()
        self._variants = {kind: answers for kind, answers in row.variants if f"{VARIANTS}{kind}" in needs and answers}
        self._text = ""
        if "text" in needs:
            self._text = f"{row.prompt}{encoder.separator}{row.answer}" if row.prompt else row.answer
        unknowing = replace(row, prompt=row.prior_prompt, turns=()) if prior else row
        own = LabelledText(encoder.encode(row, row.answer), "vocabulary" in needs, "layers" in needs)
        self._counts = (len(options), *(len(answers) for answers in self._variants.values()), len(prior))
        self.texts = [
            own,
            *(LabelledText(encoder.encode(row, answer)) for answer in options),
            *(LabelledText(encoder.encode(row, answer)) for answers in self._variants.values() for answer in answers),
            *(LabelledText(encoder.encode(unknowing, answer)) for answer in prior),
        ]
        self._right_choice = right_choice(row) if "options" in needs else -1

    def record(self, name: str, row: Example, scores: Sequence[TextScores]) -> ScoredRow:
        own, *rest = scores
        further = [AnswerScore(sum(score.logps), len(score.logps)) for score in rest]
        parts = []
        for count in self._counts:
            parts.append(further[:count])
            del further[:count]
        options, *variants, prior = parts
        return ScoredRow(
            id=row.id,
            fact=row.fact,
            group=row.group,
            set=name,
            logps=own.logps,
            hits=own.hits,
            choice_logps=tuple(option.logp for option in options),
            choice_lengths=tuple(option.tokens for option in options),
            right_choice=self._right_choice,
            answer=row.answer,
            vocab_means=own.means,
            vocab_variances=own.variances,
            variants={kind: tuple(found) for kind, found in zip(self._variants, variants, strict=True)},
            prior_logps=tuple(option.logp for option in prior),
            layer_logps=own.layers,
            text=self._text,
        )


def right_choice(row: Example) -> int:
    """Index of a row's answer among its choices; -1 if it has none.

    Raises:
        RequestError: The answer is not among them.
    """
    if not row.choices:
        return -1
    if row.answer not in row.choices:
        raise RequestError(f"{row.origin or row.id}: the answer is not among the choices: add it to them")
    return row.choices.index(row.answer)


def _prompt_key(row: EncodedRow) -> tuple[int, ...]:
    """Rows with this in common may share a tree. Plain texts share a first token, which is nothing."""
    return row.input_ids[: row.n_prompt] if row.n_prompt > 1 else row.input_ids


def _score_batch(
    logits: SelectedLogits,
    lens: LogitLens | None,
    trees: Sequence[TokenTree],
    texts: Sequence[LabelledText],
    origins: Mapping[str, str],
) -> list[list[list[list[Any]]]]:
    """For each tree and each of its texts, the parts of its :class:`TextScores` as lists."""
    labels = _Labels(trees, texts)
    rows, positions = [row for row, _ in labels.slots], [position for _, position in labels.slots]
    batch = tree_batch(trees, logits.device)
    if lens is None or not labels.watched:
        selected = logits.select(batch, rows, positions)
    else:
        watched = [list(labels.slots)[labels.places[label]] for label in labels.watched]
        with lens.watching([row for row, _ in watched], [position for _, position in watched]):
            selected = logits.select(batch, rows, positions)
    scores = _Scores(labels, selected.device)
    for part in logits.parts(len(rows)):
        scores.add(part, logits.project(selected[part]))
    if not scores.finite and any(len(tree.members) > 1 for tree in trees):
        # What is not a number spreads through masks (0 times it is it); alone, each text shows whether it is its own.
        return [_one_by_one(logits, lens, tree, texts, origins) for tree in trees]
    layers = torch.zeros(0), torch.zeros(0)
    if lens is not None and labels.watched:
        logps, hits = lens.label_logps(scores.label_ids[labels.watched])
        layers = logps.cpu(), hits.cpu()
    return scores.by_text(trees, texts, layers, origins)


def _one_by_one(
    logits: SelectedLogits,
    lens: LogitLens | None,
    tree: TokenTree,
    texts: Sequence[LabelledText],
    origins: Mapping[str, str],
) -> list[list[list[Any]]]:
    found = []
    for member in tree.members:
        alone = grow_trees([texts[member].row.input_ids[:-1]], [member], 1, 0)[0]
        found += _score_batch(logits, lens, [replace(alone, members=(member,))], texts, origins)[0]
    return found


class _Labels:
    """Every label of a batch and the place in the batch that predicts it. Equal places are looked at once.

    Attributes:
        slots: Place (row, position) to its index among the chosen ones.
        ids: Token id of each label.
        places: For each label, the index of its slot.
        wanted: For each slot, whether vocabulary statistics are wanted there.
        watched: Labels that are looked at after each layer.
    """

    def __init__(self, trees: Sequence[TokenTree], texts: Sequence[LabelledText]) -> None:
        self.slots: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.places: list[int] = []
        self.watched: list[int] = []
        wanted = set()
        for row, tree in enumerate(trees):
            for path, member in zip(tree.paths, tree.members, strict=True):
                text = texts[member]
                for position in range(text.row.n_prompt, len(text.row.input_ids)):
                    slot = self.slots.setdefault((row, path[position - 1]), len(self.slots))
                    if text.layers:
                        self.watched.append(len(self.ids))
                    if text.vocabulary:
                        wanted.add(slot)
                    self.places.append(slot)
                    self.ids.append(text.row.input_ids[position])
        self.wanted = [slot in wanted for slot in range(len(self.slots))]


class _Scores:
    """Scores of the labels of a batch, filled part by part."""

    def __init__(self, labels: _Labels, device: torch.device) -> None:
        self.label_ids = torch.tensor(labels.ids, device=device)
        self._where = torch.tensor(labels.places, device=device)
        self._wanted = torch.tensor(labels.wanted, device=device)
        self._any_wanted = any(labels.wanted)
        self._logps = torch.zeros(len(labels.ids), device=device)
        self._best = torch.zeros(len(labels.slots), dtype=torch.long, device=device)
        self._means = torch.zeros(len(labels.slots), device=device)
        self._variances = torch.zeros(len(labels.slots), device=device)

    def add(self, part: slice, values: torch.Tensor) -> None:
        """Take in the logits of a part of the slots."""
        logps = values.log_softmax(-1)
        self._best[part] = values.argmax(-1)
        here = (self._where >= part.start) & (self._where < part.stop)
        self._logps[here] = logps[self._where[here] - part.start, self.label_ids[here]]
        if self._any_wanted:
            wanted = self._wanted[part]
            means, variances = vocabulary_statistics(logps if bool(wanted.all()) else logps[wanted])
            self._means[part][wanted] = means
            self._variances[part][wanted] = variances

    @property
    def finite(self) -> bool:
        """Whether all scores so far are numbers."""
        return bool(self._logps.isfinite().all())

    def by_text(
        self,
        trees: Sequence[TokenTree],
        texts: Sequence[LabelledText],
        layers: tuple[torch.Tensor, torch.Tensor],
        origins: Mapping[str, str],
    ) -> list[list[list[list[Any]]]]:
        logps, finite = self._logps.tolist(), self._logps.isfinite().tolist()
        hits = (self._best[self._where] == self.label_ids).tolist()
        means, variances = self._means[self._where].tolist(), self._variances[self._where].tolist()
        found: list[list[list[list[Any]]]] = []
        start = watched = 0
        for tree in trees:
            found.append([])
            for member in tree.members:
                text = texts[member]
                end = start + len(text.row.input_ids) - text.row.n_prompt
                if not all(finite[start:end]):
                    raise NotFiniteError(_not_finite(text.row, origins))
                of_layers: list[list[Any]] = [[], [], []]
                if text.layers:
                    after, best = (part[:, watched : watched + end - start] for part in layers)
                    of_layers[0] = after.double().mean(1).tolist()
                    if text.layer_tokens:
                        of_layers[1:] = [after.tolist(), best.tolist()]
                    watched += end - start
                span = slice(start, end if text.vocabulary else start)
                found[-1].append([logps[start:end], hits[start:end], means[span], variances[span], *of_layers])
                start = end
        return found


def vocabulary_statistics(logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the next token's log-probability under the distribution itself.

    Args:
        logps: Float32 log-probabilities (nats), ``[positions, vocabulary]``. Changed in place.

    Returns:
        ``sum_v p(v) log p(v)`` and ``sum_v p(v) (log p(v) - mean)**2``, each ``[positions]``. The variance is taken
        around the mean, so nothing cancels and float32 is enough. A token of no probability counts 0.
    """
    probabilities = logps.exp()
    logps = logps.clamp_(min=-1e4)
    means = (probabilities * logps).sum(-1)
    variances = probabilities.mul_(logps.sub_(means[:, None]).square_()).sum(-1)
    return means, variances


def _not_finite(row: EncodedRow, origins: Mapping[str, str]) -> str:
    origin = origins.get(row.id, row.id)
    place = "" if origin == row.id else f"{origin}: "
    return (
        f"{place}the model's logits on row {row.id} are not finite: its weights are broken, or its dtype is too small "
        "for it"
    )
