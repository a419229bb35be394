"""Pieces of the page, as HTML. What comes from a report or a model is escaped: other people wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from models import Side
from settings import Question

from hf_unlearn.reporting.html import render_html

CSS = """
.verdict { display: inline-block; padding: .1rem .7rem; border: 1px solid currentColor; border-radius: 1rem;
  font-weight: 600; }
.verdict.passed, .trust.verified { color: #00704f; }
.verdict.failed, .trust.refused { color: #b93a00; }
.verdict.inconclusive, .trust.absent { color: #7a5a00; }
.dark .verdict.passed, .dark .trust.verified { color: #35c79a; }
.dark .verdict.failed, .dark .trust.refused { color: #ff8a54; }
.dark .verdict.inconclusive, .dark .trust.absent { color: #e0b13c; }
.trust { margin: .2rem 0 0; font-size: .9rem; overflow-wrap: anywhere; }
.side h3 { margin: 0; overflow-wrap: anywhere; }
.side .name { margin: 0; opacity: .75; overflow-wrap: anywhere; }
@media (min-width: 760px) { .side { min-height: 7.5rem; } }
.chance { min-height: 3rem; font-variant-numeric: tabular-nums; }
.chance .bar { height: .5rem; border-radius: .25rem; background: var(--border-color-primary); overflow: hidden; }
.chance .bar div { height: 100%; background: var(--color-accent); }
.report iframe { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: .5rem;
  background: white; }
"""


def header(name: str, report: Mapping[str, Any] | None) -> str:
    """Title, verdict and what was removed; a sentence on controls if one of them came out wrong.

    Args:
        name: The published model.
        report: Its report; ``None`` if it has no intact one.
    """
    title = f"<h1>{escape(name)}</h1>"
    if report is None:
        return f"{title}<p>There is no report to show.</p>"
    status = report["verdict"]["status"]
    removed = report.get("removed")
    lines = [f'<span class="verdict {escape(status)}">Unlearning verdict: {escape(status)}</span>']
    if removed:
        lines.append(f"To be forgotten: {escape(removed)}.")
    if wrong := [control["name"] for control in report["controls"] if not control["ok"]]:
        lines.append(f"<strong>Not to be relied on: the control {escape(wrong[0])} came out wrong.</strong>")
    return title + "".join(f"<p>{line}</p>" for line in lines)


def side_words(side: Side) -> str:
    """What a model is, and what was verified of it."""
    return (
        f'<div class="side"><h3>{escape(side.role)}</h3><p class="name">{escape(side.name)}</p>'
        f'<p class="trust {side.trust}">{escape(side.message)}</p></div>'
    )


def chance(probability: float | None) -> str:
    """The probability of the expected answer, as a number and a bar; a space as high as these without one."""
    if probability is None:
        return '<div class="chance"></div>'
    return (
        f'<div class="chance">Probability of the expected answer: <strong>{number(probability)}</strong>'
        f'<div class="bar" aria-hidden="true"><div style="width: {100 * probability:.1f}%"></div></div></div>'
    )


def number(probability: float) -> str:
    """A probability for people."""
    return f"{probability:.3f}" if probability >= 0.001 else "less than 0.001"


def report_frame(report: Mapping[str, Any] | None) -> str:
    """The report's page in a frame that runs no script; it is made anew from the report."""
    if report is None:
        return "<p>There is no report to show.</p>"
    return (
        '<div class="report"><iframe sandbox title="Unlearning verification report" '
        f'srcdoc="{escape(render_html(report))}"></iframe></div>'
    )


def examples(report: Mapping[str, Any] | None, questions: list[Question]) -> list[list[str]]:
    """Prompts to try: one on what the report says was removed, then those of the Space."""
    removed = (report or {}).get("removed")
    asked = [Question(f"What do you know about {removed}?")] if removed else []
    return [[question.prompt, question.answer] for question in (*asked, *questions)]
