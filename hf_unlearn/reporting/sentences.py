"""A report in sentences: the verdict, its reasons, what was survived, what the controls show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..verification.outcomes import TransformOutcome
from ..verification.recovered import RecoveredRow
from ..verification.references import IDENTITY
from ..verification.single_facts import KnownFactsRow
from ..verification.utility import UtilityRow
from .budgets import TOLD_WITH_FOLDS, budget_phrases
from .forgotten_rows import auc_words, strongest_words
from .known_facts import bound_words, counts_to_show, known_facts_sentence
from .results import Results, Subject
from .words import key_words, listed, metric_phrase, show, spelled

MAX_REASONS = 6
_SHOWN_OF_A_BUDGET = 4
# A list of names that is longer than this is cut in a terminal; the report has all of it.
_LONGEST_LIST = 6
_INFINITIVES = {"passed": "pass", "failed": "fail"}


def summarize(results: Results) -> str:
    """What happened, for somebody who reads nothing else.

    Args:
        results: The report that was read.

    Returns:
        Up to four sentences made of numbers in the report.
    """
    release = results.release
    facts = known_facts_sentence(results, release.name) if release else ""
    return f"{_summary(results)} {facts}".rstrip()


def _summary(results: Results) -> str:
    release = results.release
    if release is None:
        return f"The verdict is {results.status}; the report names no release candidate."
    if results.status == "passed":
        return _summary_of_a_pass(results, release.name)
    if results.status == "failed":
        return _summary_of_a_failure(results, release.name)
    if results.status == "inconclusive":
        return _summary_of_neither(results, release.name)
    return f"The verdict on {release.name} is {results.status}."


def warning(results: Results) -> str:
    """Why no verdict of this run can be trusted; empty if all controls came out as they must."""
    wrong = list(results.wrong_controls)
    if not wrong:
        return ""
    return (
        f"Do not rely on this verdict: the run tests itself on models whose verdict is known beforehand, and "
        f"{listed(wrong)} did not come out as {'it' if len(wrong) == 1 else 'they'} must."
    )


def _summary_of_a_pass(results: Results, model: str) -> str:
    judged = {share.transform for share in results.shares(model) if share.is_judged}
    forms = f"all {len(judged)} forms it was judged in" if len(judged) > 1 else "the one form it was judged in"
    top = results.largest_share(model)
    most = f" Most came back {results.where(top.transform)}: {_share_and_limit(top)}." if top else ""
    return (
        f"{model} forgot what it had to: in {forms} no more of the forgotten facts came back than the gate allows, "
        f"and it kept what it had to keep.{most}{_before_and_after(results, model)}"
    )


def _summary_of_a_failure(results: Results, model: str) -> str:
    failed = [
        share for share in results.shares(model) if share.status == "failed" and share.recovered_share is not None
    ]
    back = [
        share for share in failed if share.threshold is not None and (share.recovered_share or 0) > share.threshold
    ]
    over = [share for share in failed if share not in back]
    lost = next((row for row in results.utility(model) if row.status == "failed"), None)
    if back:
        top = max(back, key=lambda share: share.recovered_share or 0)
        kept = " It also lost too much of what it had to keep." if lost else ""
        return f"{model} did not forget for good: {_came_back(results, top)}{_before_and_after(results, model)}{kept}"
    if any(row.status == "failed" for row in results.known_facts(model)):
        kept = " It also lost too much of what it had to keep." if lost else ""
        return f"{model} did not forget every fact.{_before_and_after(results, model)}{kept}"
    if lost:
        why = lost.reason or f"{lost.kind.replace('_', ' ').replace('kl', 'KL')} is out of bounds."
        return f"{model} lost too much of what it had to keep ({results.transform_label(lost.transform)}): {why}"
    if over:
        low = min(over, key=lambda share: share.recovered_share or 0)
        where = results.transform_label(low.transform)
        return (
            f"{model} pushed the answers below what a model that never knew them gives, which marks them: recovered "
            f"share {show(low.recovered_share)} in {metric_phrase(low.metric)} ({where})."
        )
    told = next((row for row in results.forgotten_rows(model) if row.status == "failed"), None)
    if told:
        where = results.where(told.transform)
        return (
            f"{model} gives away which rows were forgotten: {strongest_words(told)} ({where}, AUC {auc_words(told)})."
        )
    return f"{model} did not pass: {_first_reason(results, model)}"


def _came_back(results: Results, share: RecoveredRow) -> str:
    there = "still there" if share.transform == IDENTITY else "back"
    where = results.where(share.transform)
    return f"{where}, {_part(share.recovered_share or 0.0)} of what had to go is {there} ({_share_and_limit(share)})."


def _share_and_limit(share: RecoveredRow) -> str:
    limit = "" if share.threshold is None else f"; the gate allows {show(share.threshold, 2)}"
    return f"recovered share {show(share.recovered_share)} by {metric_phrase(share.metric)}{limit}"


def _part(share: float) -> str:
    """A share as a whole percentage."""
    return "all" if share >= 0.995 else f"{100 * share:.0f} %"


def _summary_of_neither(results: Results, model: str) -> str:
    open_shares = [share for share in results.shares(model) if share.status == "inconclusive"]
    why = _first_reason(results, model)
    if open_shares and why not in results.reasons:
        why = "some intervals reach over the limits of the gate"
    needed = [share.more_needed for share in open_shares if share.more_needed is not None]
    more = f" About {max(needed)} more facts would settle it." if needed else ""
    after = _before_and_after(results, model)
    return f"The measurements do not settle whether {model} forgot: {why.rstrip('.')}.{more}{after}"


def _first_reason(results: Results, model: str) -> str:
    reasons = grouped_reasons(results, model, results.reasons)
    return reasons[0] if reasons else "the report gives no reason"


def verdict_reasons(results: Results) -> list[str]:
    """Why the verdict of a report is what it is, as people are told it everywhere: the most telling first."""
    release = results.release
    return grouped_reasons(results, release.name, results.reasons) if release else list(results.reasons)


def first_reasons(reasons: Sequence[str]) -> list[str]:
    """As many reasons as fit a terminal, metrics as words, and how many more there are."""
    rest = len(reasons) - MAX_REASONS
    more = [f"{rest} more {'reason' if rest == 1 else 'reasons'} in the report"] if rest > 0 else []
    return [*map(spelled, reasons[:MAX_REASONS]), *more]


def _before_and_after(results: Results, model: str) -> str:
    metric = results.headline
    after = results.value(model, IDENTITY, "forget", metric)
    before = results.value("target", IDENTITY, "forget", metric)
    if after is None or before is None:
        return ""
    never = results.value("never_knew", IDENTITY, "forget", metric)
    beside = f"; a model that never knew has {show(never)}" if never is not None else ""
    change = f"went from {show(before)} to {show(after)}"
    return f" As it stands, its forget {metric_phrase(metric)} {change}{beside}."


def grouped_reasons(results: Results, model: str, reasons: Sequence[str]) -> list[str]:
    """The reasons of a verdict, the most telling first.

    Sentences of the report that say why a recovered share, a count of facts or a utility number did not pass are said
    again, from the same numbers, once for all transforms that share them. All other sentences are left as they are.

    Args:
        results: The report that was read.
        model: The judged model.
        reasons: Its reasons as the report has them.

    Returns:
        One sentence each.
    """
    shares = [share for share in results.shares(model) if share.is_judged]
    utility = list(results.utility(model))
    counts = list(results.known_facts(model))
    everything: list[RecoveredRow | KnownFactsRow | UtilityRow] = [*shares, *counts, *utility]
    rows = [row for row in everything if row.status in ("failed", "inconclusive")]
    own = [reason for reason in reasons if not _is_about(results, reason, rows)]
    if len(own) == len(reasons):
        return list(reasons)
    # What stands first in the report, such as a never-knew model that knows, outweighs all numbers.
    leading = own[: next(i for i, reason in enumerate(reasons) if reason not in own)]
    failed = [share for share in shares if share.status == "failed"]
    return [
        *leading,
        *_share_groups(results, [share for share in failed if not share.marks_the_answer]),
        *_share_groups(results, [share for share in failed if share.marks_the_answer]),
        *_known_groups(results, [row for row in counts if row.status == "failed"]),
        *_utility_groups(results, [row for row in utility if row.status == "failed"]),
        *own[len(leading) :],
        *_share_groups(results, [share for share in shares if share.status == "inconclusive"]),
        *_known_groups(results, [row for row in counts if row.status == "inconclusive"]),
        *_utility_groups(results, [row for row in utility if row.status == "inconclusive"]),
    ]


def where_words(results: Results, names: Sequence[str]) -> str:
    """Transforms within a sentence: ``as it stands and in all 5 formats``, ``in bnb-nf4 and bnb-fp4``."""
    wanted = set(names)
    chosen = [transform for transform in results.transforms if transform.name in wanted]
    parts = [transform.where for transform in chosen if transform.kind == "identity"]
    for kind, preposition, plural in (("format", "in", "formats"), ("attack", "after", "attacks")):
        some = [transform for transform in chosen if transform.kind == kind]
        every = [transform for transform in results.transforms if transform.kind == kind]
        if len(some) > 2 and len(some) == len(every):
            parts.append(f"{preposition} all {len(some)} {plural}")
        elif some:
            parts.append(f"{preposition} {listed([transform.name for transform in some])}")
    known = {transform.name for transform in chosen}
    parts += [results.where(name) for name in dict.fromkeys(names) if name not in known]
    return listed(parts)


def _is_about(results: Results, reason: str, rows: Sequence[RecoveredRow | KnownFactsRow | UtilityRow]) -> bool:
    return any(
        row.reason and row.reason in reason and reason.startswith(_prefix(results, row.transform)) for row in rows
    )


def _prefix(results: Results, name: str) -> str:
    return "As it stands: " if name == IDENTITY else f"{name}: "


def _share_groups(results: Results, shares: Sequence[RecoveredRow]) -> list[str]:
    """One sentence for all transforms that did not pass in the same metrics."""
    measured = [share for share in shares if share.recovered_share is not None]
    undefined = [share for share in shares if share.recovered_share is None]
    return [*_measured_groups(results, measured), *_undefined_groups(results, undefined)]


def _undefined_groups(results: Results, shares: Sequence[RecoveredRow]) -> list[str]:
    """One sentence for all shares that are missing for the same reason, which it gives."""
    by_reason: dict[str, list[RecoveredRow]] = {}
    for share in shares:
        by_reason.setdefault(share.reason or "it is undefined.", []).append(share)
    sentences = []
    for reason, rows in by_reason.items():
        where = where_words(results, [row.transform for row in rows])
        metrics = listed(list(dict.fromkeys(metric_phrase(row.metric) for row in rows)))
        start = f"{where[:1].upper()}{where[1:]}"
        sentences.append(f"{start}, there is no recovered share by {metrics}: {reason}")
    return sentences


def _measured_groups(results: Results, shares: Sequence[RecoveredRow]) -> list[str]:
    by_transform: dict[str, list[RecoveredRow]] = {}
    for share in shares:
        by_transform.setdefault(share.transform, []).append(share)
    groups: dict[tuple[object, ...], list[RecoveredRow]] = {}
    for name, rows in by_transform.items():
        attacked = _is_attack(results, name)
        groups.setdefault((attacked, *sorted(row.metric for row in rows)), []).extend(rows)
    weight = {key: max(abs(row.recovered_share or 0.0) for row in rows) for key, rows in groups.items()}
    return [_share_sentence(results, groups[key]) for key in sorted(groups, key=lambda key: -weight[key])]


def _share_sentence(results: Results, rows: Sequence[RecoveredRow]) -> str:
    where = where_words(results, [row.transform for row in rows])
    by_metric: dict[str, list[RecoveredRow]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    order = sorted(by_metric, key=lambda name: -max(abs(row.recovered_share or 0.0) for row in by_metric[name]))
    amounts = [f"{metric_phrase(name)} {_share_amount(by_metric[name])}" for name in order]
    first = rows[0]
    if first.status == "inconclusive":
        needed = [row.more_needed for row in rows if row.more_needed is not None]
        more = f"; about {max(needed)} more facts would settle it" if needed else ""
        what = f"not settled whether the forgotten facts are gone: recovered share by {listed(amounts)}{more}"
    elif first.marks_the_answer:
        what = f"the answers lie below a model that never knew, which marks them: recovered share by {listed(amounts)}"
    else:
        back = "is back" if any(_is_attack(results, row.transform) for row in rows) else "is there"
        what = f"forgotten knowledge {back}: recovered share by {listed(amounts)}"
    limit = (
        "" if first.marks_the_answer or first.threshold is None else f" (at most {show(first.threshold, 2)} allowed)"
    )
    return f"{where[:1].upper()}{where[1:]}, {what}{limit}."


def _share_amount(rows: Sequence[RecoveredRow]) -> str:
    """One share with its interval, or the span of several."""
    if len(rows) == 1:
        row = rows[0]
        ends = f" [{show(row.ci95[0], 2)}, {show(row.ci95[1], 2)}]" if row.ci95 else ""
        return f"{show(row.recovered_share, 2)}{ends}"
    return _span([row.recovered_share for row in rows])


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = show(min(known), 2), show(max(known), 2)
    return low if low == high else f"{low} to {high}"


def _known_groups(results: Results, rows: Sequence[KnownFactsRow]) -> list[str]:
    """One sentence for all counts by one metric."""
    by_metric: dict[str, list[KnownFactsRow]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    groups = sorted(by_metric.items(), key=lambda item: -max(row.known or 0 for row in item[1]))
    return [_known_sentence(results, metric, group) for metric, group in groups]


def _known_sentence(results: Results, metric: str, rows: Sequence[KnownFactsRow]) -> str:
    where = where_words(results, [row.transform for row in rows])
    counts, facts = (_whole_span([getattr(row, key) for row in rows]) for key in ("known", "n"))
    chance = "" if rows[0].status == "failed" else ", which a model that never knew may show by chance"
    return (
        f"{where[:1].upper()}{where[1:]}, single facts are still known by {metric_phrase(metric)}: {counts} of "
        f"{facts} ({bound_words(rows)}{chance})."
    )


def _whole_span(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return str(min(known)) if min(known) == max(known) else f"{min(known)} to {max(known)}"


def _utility_groups(results: Results, rows: Sequence[UtilityRow]) -> list[str]:
    """One sentence for each utility check that did not pass."""
    groups: dict[tuple[str, str], list[UtilityRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.metric), []).append(row)
    return [_utility_sentence(results, group) for group in groups.values()]


def _utility_sentence(results: Results, rows: Sequence[UtilityRow]) -> str:
    where = where_words(results, [row.transform for row in rows])
    first = rows[0]
    start = f"{where[:1].upper()}{where[1:]}, "
    if any(row.shown is None for row in rows) or first.threshold is None:
        return start + " ".join(dict.fromkeys(row.reason for row in rows if row.reason))
    span = _span([row.shown for row in rows])
    if first.kind == "perplexity":
        return f"{start}perplexity is {span} times the target's (at most {show(first.threshold, 2)} allowed)."
    if first.is_ceiling:
        return f"{start}the KL to the target on generic text is {span} (at most {show(first.threshold, 2)} allowed)."
    what = f"the retain {metric_phrase(first.metric)}" if first.kind == "retain_score" else metric_phrase(first.metric)
    return f"{start}{what} is only {span} of the target's (at least {show(first.threshold, 2)} needed)."


def _is_attack(results: Results, name: str) -> bool:
    transform = results.transform(name)
    return transform is not None and transform.kind == "attack"


def outcome_sentences(results: Results) -> list[str]:
    """What was passed, failed, left open and only reported of the release candidate; none in older reports."""
    verdict = results.report.verdict
    if not verdict.outcomes:
        return []
    sentences = []
    for status, words in (("passed", "Survived"), ("failed", "Failed"), ("inconclusive", "Undecided")):
        names = [_outcome_words(results, each) for each in verdict.outcomes if each.status == status]
        if names:
            sentences.append(f"{words}: {listed(names)}.")
    unjudged = results.only_run(verdict.candidate)
    if unjudged:
        sentences.append(f"Run, not judged: {listed(unjudged)}.")
    judged = verdict.judged
    if judged is not None and judged.comparisons and judged.joint_factor is not None:
        sentences.append(
            f"{len(verdict.outcomes)} conditions were tested, {judged.comparisons} recovered shares in all (0: as a "
            "model that never knew, 1: as the target). With so many, one might fail by chance: a share fails only by "
            f"an interval {judged.joint_factor:.2f} times as long as its own, which holds for all of them at once."
        )
    return sentences


def shortened(item: str) -> str:
    """A long list of names, cut for a terminal."""
    names = item.split(", ")
    if len(names) <= _LONGEST_LIST + 1:
        return item
    return f"{', '.join(names[:_LONGEST_LIST])} and {len(names) - _LONGEST_LIST} more"


def _outcome_words(results: Results, outcome: TransformOutcome) -> str:
    why = f" by {listed(outcome.causes)}" if outcome.causes else ""
    given = _budget_words(outcome.budget)
    return f"{results.transform_label(outcome.transform)}{why}{f' ({given})' if given else ''}"


def _budget_words(budget: Mapping[str, Any]) -> str:
    """The first settings of a budget: those with words of their own, or else the first plain ones."""
    given = {key: value for key, value in budget.items() if isinstance(value, int | float | list) and value}
    shown = budget_phrases(given, None, _setting_words)
    if not shown:
        plain = {key: value for key, value in given.items() if key not in TOLD_WITH_FOLDS}
        shown = [f"{key_words(key)} {_setting_words(value)}" for key, value in plain.items()]
    return ", ".join(shown[:_SHOWN_OF_A_BUDGET])


def _setting_words(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(_setting_words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def control_sentence(results: Results, control: Subject) -> str:
    """Whether a control came out as it must, and what that shows."""
    if control.status is None:
        return f"{control.name} was not judged"
    return f"{control.name} {control.status}, {_control_outcome(control)}: {control_meaning(results, control)}"


def control_note(control: Subject) -> str:
    """The same in two or three words, for a table."""
    if control.as_expected is None:
        return ""
    if control.as_expected:
        return "as it must"
    if control.status != control.expected:
        return f"must {_INFINITIVES.get(control.expected or '', 'differ')}"
    return "not caught" if _not_caught_by(control) else "no proof"


def control_meaning(results: Results, control: Subject) -> str:
    """What the outcome of a control says about the tests themselves."""
    if control.status is None:
        return "it was not judged"
    if control.expected == "passed":
        return _negative_control(results, control)
    return _positive_control(results, control)


def caught_by(results: Results, control: Subject) -> tuple[str, ...]:
    """What caught a control, the largest recovered share first."""

    def size(name: str) -> float:
        share = results.largest_share(control.name, name)
        return -(share.recovered_share or 0.0) if share else 0.0

    return tuple(sorted(control.caught_by, key=size))


def _control_outcome(control: Subject) -> str:
    if control.as_expected:
        return "as it must"
    if control.status != control.expected:
        return f"but must {_INFINITIVES.get(control.expected or '', 'come out otherwise')}"
    return "but not as it must"


def _negative_control(results: Results, control: Subject) -> str:
    if control.status == "passed":
        return "the tests do not accuse a model that has nothing to hide"
    if control.caught_by:
        found = listed([results.transform_label(name) for name in caught_by(results, control)])
        return f"the tests find knowledge where there is none ({found})"
    if control.status == "failed":
        return "it has nothing to hide, and failed for something else than knowledge"
    return "the numbers do not clear a model that has nothing to hide"


def _positive_control(results: Results, control: Subject) -> str:
    missing = _not_caught_by(control)
    if control.status == "failed" and not control.caught_by:
        return "the tests do not find what is left in it; it failed for something else"
    if control.status == "failed" and missing:
        where = listed([results.where(name) for name in missing])
        other = f", only {listed([results.where(name) for name in control.caught_by])}"
        return f"the tests do not find what is left in it {where}{other}"
    if control.status != "failed":
        return "the tests do not find what is left in it"
    found = f"what is left in it is found {_found_best(results, control)}"
    if control.as_expected:
        return found
    looks = _looks_as_it_stands(results, control)
    return f"{found}, but that proves little, because as it stands it does not look forgotten and useful{looks}"


def _not_caught_by(control: Subject) -> list[str]:
    return [name for name in control.required_by if name not in control.caught_by]


def _found_best(results: Results, control: Subject) -> str:
    """Where most of it was found, among the transforms that had to find it, beside the model as it stands."""
    first = [name for name in caught_by(results, control) if name in (control.required_by or control.caught_by)]
    share = results.largest_share(control.name, first[0])
    if share is None or not share.still_known:
        counts = [row for row in counts_to_show(results, control.name) if row.transform == first[0]]
        facts = f" ({counts[0].known} of {counts[0].n} facts still known)" if counts else ""
        return f"{results.where(first[0])}{facts}"
    plain = next(
        (row for row in results.shares(control.name) if (row.transform, row.metric) == (IDENTITY, share.metric)),
        None,
    )
    beside = f", {show(plain.recovered_share, 2)} as it stands" if plain and plain != share else ""
    by = metric_phrase(share.metric)
    return f"{results.where(first[0])} (recovered share {show(share.recovered_share, 2)} by {by}{beside})"


def _looks_as_it_stands(results: Results, control: Subject) -> str:
    metric = "exact_match" if results.was_scored(control.name, "forget", "exact_match") else results.headline
    scores = [
        f"{split} {metric_phrase(metric)} {show(score.value, 2)}"
        for split in ("forget", "retain")
        if (score := results.score(control.name, IDENTITY, split, metric))
    ]
    return f" ({listed(scores)})" if scores else ""
