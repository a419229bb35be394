"""What a model survived and what it failed, with what an attacker was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..verification.report_rows import section
from .results import Results
from .words import listed

_SHOWN_OF_A_BUDGET = 4
# A list of names that is longer than this is cut in a terminal; the report has all of it.
_LONGEST_LIST = 6


def outcome_sentences(results: Results) -> list[str]:
    """What was passed, failed, left open and only reported of the release candidate; none in older reports."""
    outcomes = [each for each in section(results.report, "verdict").get("outcomes") or () if isinstance(each, Mapping)]
    judged = section(section(results.report, "verdict"), "judged")
    if not outcomes:
        return []
    sentences = []
    for status, words in (("passed", "Survived"), ("failed", "Failed"), ("inconclusive", "Undecided")):
        names = [_name(results, each) for each in outcomes if each.get("status") == status]
        if names:
            sentences.append(f"{words}: {listed(names)}.")
    unjudged = only_run(results, str(section(results.report, "verdict").get("candidate")))
    if unjudged:
        sentences.append(f"Run, not judged: {listed(unjudged)}.")
    count, factor = judged.get("comparisons"), judged.get("joint_factor")
    if count and isinstance(factor, int | float):
        sentences.append(
            f"{len(outcomes)} transforms were tested, {count} recovered shares in all; a share fails only by the "
            f"interval that holds for all of them at once, {factor:.2f} times as long as its own."
        )
    return sentences


def only_run(results: Results, model: str) -> list[str]:
    """Transforms under which a model was scored and that the gate does not judge, in the order they are shown."""
    shares = results.shares(model)
    judged = {share.transform for share in shares if share.is_judged}
    return list(dict.fromkeys(share.transform for share in shares if share.transform not in judged))


def shortened(item: str) -> str:
    """A long list of names, cut for a terminal."""
    names = item.split(", ")
    if len(names) <= _LONGEST_LIST + 1:
        return item
    return f"{', '.join(names[:_LONGEST_LIST])} and {len(names) - _LONGEST_LIST} more"


def _name(results: Results, outcome: Mapping[str, Any]) -> str:
    name = results.transform_label(str(outcome.get("transform")))
    causes: Sequence[str] = [str(cause) for cause in outcome.get("causes") or ()]
    why = f" by {listed(causes)}" if causes else ""
    given = _budget(section(outcome, "budget"))
    return f"{name}{why}{f' ({given})' if given else ''}"


def _budget(budget: Mapping[str, Any]) -> str:
    """The first plain settings of a budget."""
    plain = [(key, value) for key, value in budget.items() if isinstance(value, int | float | list) and value]
    shown = [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in plain[:_SHOWN_OF_A_BUDGET]]
    return ", ".join(shown)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
