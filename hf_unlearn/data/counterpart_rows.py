"""Rows about names that nobody has: what a model that never knew says to questions of the same kind."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .asked_fact import AskedFact
from .counterparts import SLOT, Template, invented_like, mentions, shape_of
from .overlap import words

LEAST = 40
"""So many rows are made, or as many as there are groups to forget if they are more."""
_SOURCE = "the same question about a name that nobody has, with an answer to that question about somebody else"


def rows_about_nobody(
    templates: Sequence[Template], kept: Iterable[tuple[str, str]], forgotten: Iterable[tuple[str, str]], count: int
) -> list[AskedFact]:
    """Questions about names that do not exist, with answers that are right about others.

    An answer comes from a kept row of the same template, or else is one of the same kind (a number, a name) from any
    kept row; answers to what is forgotten are taken where there is none of them, and then from other questions.

    Args:
        templates: The questions.
        kept: Prompts and answers of the retain set.
        forgotten: Prompts and answers of the forget set.
        count: How many rows to make.

    Returns:
        The rows, each a group of its own; templates for which there is no answer are left out.
    """
    pool = _Answers(list(kept), list(forgotten))
    usable = [(template, answers) for template in templates if (answers := pool.of(template))]
    if not usable:
        return []
    rng = random.Random("answers about nobody")
    names = invented_like([template.name for template, _ in usable], count, seed=0)
    rows = []
    for number, name in enumerate(names):
        template, answers = usable[number % len(usable)]
        rows.append(AskedFact(template.ask(name), rng.choice(answers), f"nobody-{number + 1:03d}", _SOURCE))
    return rows


class _Answers:
    """Answers by template and by kind."""

    def __init__(self, kept: Sequence[tuple[str, str]], forgotten: Sequence[tuple[str, str]]) -> None:
        self._kept, self._forgotten = kept, forgotten
        self._kept_by_shape = _by_shape(answer for _, answer in kept)

    def of(self, template: Template) -> list[str]:
        """What may be answered to a template's question about nobody; without repetitions, sorted."""
        same = {answer for prompt, answer in self._kept if _fits(prompt, template)}
        own = [answer for prompt, answer in self._forgotten if _is_from(prompt, template)]
        shapes = {shape_of(answer) for answer in own}
        near = {answer for shape in shapes for answer in self._kept_by_shape[shape]}
        others = {answer for prompt, answer in self._forgotten if not _is_from(prompt, template)}
        others = {answer for answer in others if shape_of(answer) in shapes}
        found = next((those for those in (same, near, others) if those), set())
        return sorted(answer for answer in found if not mentions(answer, [template.name]))


def _by_shape(answers: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        found[shape_of(answer)].add(answer)
    return found


def _fits(prompt: str, template: Template) -> bool:
    """Whether a prompt is the template about some name."""
    before, _, after = template.prompt.partition(SLOT)
    return (
        prompt.startswith(before) and prompt.endswith(after.rpartition(SLOT)[2] or after) and prompt != before + after
    )


def _is_from(prompt: str, template: Template) -> bool:
    return words(template.ask(template.name)) == words(prompt)
