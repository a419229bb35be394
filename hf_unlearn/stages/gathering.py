"""The sets of a first recipe: those that somebody has, and those that are made for what is missing.

A forget set may be rows, documents or the name of one subject. What must stay is asked of the target where no rows are
given, and a holdout set is made of the same questions about names that nobody has, where there are such questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.asked_fact import AskedFact, Asking
from ..data.counterpart_rows import LEAST, rows_about_nobody
from ..data.counterparts import Template, names_of, template_of, templates_of
from ..data.documents import are_documents, read_documents
from ..data.example import Example
from ..data.form import decide_form
from ..data.self_generated import DrawSpec, without_forgotten
from ..data.sources import Source, load_source, prompt_column
from ..errors import RequestError
from ..runtime.files import write_private
from ..verification.intervals import MIN_GROUPS
from .document_facts import document_facts
from .drawn_facts import Say, facts_about_others, others_like, subject_facts
from .respondent import Respondent, is_chat

NOTE_FILE = "README.md"
_TITLE = "# Rows made by `hf-unlearn init`"
LEAST_KEPT = 10
"""A retain score of fewer drawn rows would say nothing."""
LEAST_NAMED = 0.5
"""Share of the forget rows that must name somebody or something for the same to be asked about others."""

NOTES = {
    "forget": "made by `hf-unlearn init`: read it, and correct or remove rows",
    "retain": "the same questions about others, with the target's own answers: real rows that must stay are better",
    "holdout": "the same questions about names that nobody has: what a model that never knew says",
}
"""What the recipe says of a set that was made."""

Ask = Callable[[str], Path | None]
Confirm = Callable[[Sequence[AskedFact]], Collection[int] | None]


@dataclass(frozen=True)
class Request:
    """What somebody has.

    Attributes:
        folder: Where the rows that are made are written.
        forget: File of rows, text file, or folder of text files; or:
        subject: Name of what is to be forgotten.
        given: Files of the other sets.
        never_knew: Whether there is a model that was trained without the forget set.
        called: Whether this is a call from Python, so that messages name its arguments and no options.
    """

    folder: Path
    forget: Path | None = None
    subject: str | None = None
    given: Mapping[str, Path] = field(default_factory=dict)
    never_knew: bool = False
    called: bool = False

    def name(self, key: str) -> str:
        """What somebody gives this by: ``--retain``, or ``retain`` in Python."""
        return key if self.called else f"--{key.replace('_', '-')}"

    def way(self, key: str, value: str = "FILE") -> str:
        """How somebody gives this: ``--retain FILE``, or ``retain=ROWS`` in Python."""
        return f"{key}={value.replace('FILE', 'ROWS')}" if self.called else f"{self.name(key)} {value}"

    @property
    def lacking(self) -> list[str]:
        """The further sets that a recipe needs and nobody gave."""
        needed = ["retain"] if self.never_knew else ["retain", "holdout"]
        return [name for name in needed if name not in self.given]


@dataclass(frozen=True)
class Gathered:
    """All sets of a recipe.

    Attributes:
        sets: Files by set.
        made: Which of them were made, now or by an earlier call.
        names: Words that say by themselves what a text is about: those for the subject.
        told: What was done, one sentence each.
    """

    sets: Mapping[str, Path]
    made: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interview:
    """Who can be asked.

    Attributes:
        target: The model.
        confirm: Shown the facts about a subject; gives the places (from 0) of those that are forgotten, or ``None`` if
            nothing is.
        file_of: Asked for the file of a set; ``None`` if there is none, or nobody to ask.
        say: Told what takes time.
    """

    target: Respondent
    confirm: Confirm
    file_of: Ask = lambda name: None
    say: Say = lambda sentence: None


@dataclass(frozen=True)
class _Forget:
    """The forget set, as far as others like it can be asked about.

    Attributes:
        path: Its file.
        pairs: Prompts and answers of its rows.
        templates: Those of its prompts that name somebody or something; empty if too few do.
        asking: How its prompts are put and written.
    """

    path: Path
    pairs: tuple[tuple[str, str], ...]
    templates: tuple[Template, ...]
    asking: Asking

    @property
    def names(self) -> list[str]:
        """What its prompts name."""
        return list(dict.fromkeys(template.name for template in self.templates))


def make_sets(request: Request, interview: Interview) -> Gathered:
    """Make the sets that are missing, and write them as files that their owner can read and edit.

    Args:
        request: What somebody has.
        interview: The target, and who else can be asked.

    Returns:
        The files of all sets.

    Raises:
        RequestError: Too little can be made of what there is; the message says what to give.
        EnvironmentFailure: The Hub could not be reached.
    """
    makes_forget = request.forget is None or are_documents(request.forget)
    if not makes_forget and not request.lacking:
        assert request.forget is not None
        return _gathered(request, {"forget": request.forget, **request.given}, [])
    _refuse_old(request, (["forget"] if makes_forget else []) + request.lacking)
    told: list[str] = []
    forget = _made_forget(request, interview, told) if makes_forget else _given_forget(request, interview.target)
    sets = {"forget": forget.path, **request.given}
    lacking = []
    for name in request.lacking:
        rows = (
            _retain_rows(forget, interview, told)
            if name == "retain"
            else _holdout_rows(forget, sets.get("retain"), told)
        )
        if rows:
            sets[name] = _write(request.folder, name, rows, forget.asking, told)
        elif (path := interview.file_of(name)) is not None:
            sets[name] = path
        else:
            lacking.append(_lacking(name, request))
    if lacking:
        raise RequestError("; ".join(lacking))
    return _gathered(request, sets, told)


def _gathered(request: Request, sets: Mapping[str, Path], told: Sequence[str]) -> Gathered:
    ordered = {name: sets[name] for name in _ORDER if name in sets}
    made = frozenset(name for name, path in ordered.items() if _is_made(path))
    names = () if request.subject is None else tuple(names_of(request.subject))
    return Gathered(ordered, made, names, tuple(told))


_ORDER = ("forget", "retain", "holdout", "generic")


def _lacking(name: str, request: Request) -> str:
    """Why a set has to be given, and how."""
    if name == "retain":
        return (
            f"too little of the same kind can be asked of the model: add {request.way('retain')}, rows that must "
            "stay, of the same kind as the forget set (hundreds are better than tens)"
        )
    return (
        "no holdout set can be made of rows to forget that name nobody and nothing, or have no other answers: add "
        f"{request.way('holdout')}, rows of the same kind that no model was trained on (they show what 'never knew' "
        f"looks like, and without them nothing could be judged), or {request.way('never_knew', 'MODEL')}, one that "
        "was trained without the forget set"
    )


def _refuse_old(request: Request, names: Sequence[str]) -> None:
    old = next((path for name in names if (path := request.folder / f"{name}.jsonl").exists()), None)
    if old is not None:
        raise RequestError(
            f"{old} exists, from an earlier call: give it as {request.name(old.stem)}, or move it away to have rows "
            "made again"
        )


def _made_forget(request: Request, interview: Interview, told: list[str]) -> _Forget:
    """The rows of documents or of a subject, written into a file."""
    asking = Asking(is_chat(interview.target))
    if request.subject is not None:
        rows = _about_subject(request, interview, told)
        what = f"{request.subject!r}"
    else:
        assert request.forget is not None
        found = document_facts(read_documents(request.forget), interview.target, interview.say)
        rows, what = found.facts, str(request.forget)
        told.append(f"{found.told}.")
    groups = len({row.group for row in rows})
    given = request.name("forget")
    path = _write(request.folder, "forget", rows, asking, told) if rows else request.folder
    if groups < MIN_GROUPS:
        raise RequestError(
            f"there are {groups} independent facts about {what} that the model knows, and no verdict is possible on "
            f"fewer than {MIN_GROUPS}: "
            + (f"add rows to {path} and give it as {given}" if rows else f"give rows as {given}")
        )
    names = names_of(request.subject) if request.subject is not None else None
    pairs = tuple((row.prompt, row.answer) for row in rows)
    return _Forget(path, pairs, _templates([row.prompt for row in rows], names), asking)


def _about_subject(request: Request, interview: Interview, told: list[str]) -> tuple[AskedFact, ...]:
    subject = request.subject
    assert subject is not None
    drawn = subject_facts(subject, interview.target, interview.say)
    told.append(
        f"The model was asked {drawn.asked} questions about {subject} that it had written itself, and answers "
        f"{len(drawn.facts)} of them the same way in most samples."
    )
    if not drawn.facts:
        return ()
    chosen = interview.confirm(drawn.facts)
    if not chosen:
        raise RequestError(
            f"nothing is to be forgotten: give another {request.name('subject')}, or rows as {request.name('forget')}"
        )
    return tuple(drawn.facts[place] for place in sorted(chosen))


def _given_forget(request: Request, target: Respondent) -> _Forget:
    """The forget set that is a file of rows."""
    assert request.forget is not None
    source = Source(path=str(request.forget))
    rows = load_source(source, "forget").score
    plain = [row for row in rows if not row.conversational]
    chat = decide_form(rows, target.tokenizer, column=prompt_column(source)).kind == "chat"
    lead = " " if all(row.answer[:1].isspace() for row in rows) else ""
    pairs = tuple((row.prompt, row.answer.strip()) for row in plain)
    return _Forget(request.forget, pairs, _templates([row.prompt for row in plain]), Asking(chat, lead))


def _templates(prompts: Sequence[str], names: Sequence[str] | None = None) -> tuple[Template, ...]:
    """The templates of prompts; none if too few of them name somebody or something."""
    if names is not None:
        found = {made.prompt: made for prompt in prompts if (made := template_of(prompt, names)) is not None}
        return tuple(found.values())
    named = sum(bool(templates_of([prompt])) for prompt in prompts)
    return tuple(templates_of(prompts)) if named and named >= LEAST_NAMED * len(prompts) else ()


def _retain_rows(forget: _Forget, interview: Interview, told: list[str]) -> list[AskedFact]:
    """The same questions about others, with the target's own answers; none if it gives too few."""
    if not forget.templates:
        return []
    interview.say("the model names others of the same kind")
    others = others_like(forget.names, interview.target)
    drawn = facts_about_others(forget.templates, others, interview.target, forget.asking.chat, interview.say)
    kept = _apart(drawn.facts, forget)
    told.append(
        f"The same was asked about {len(others)} others that the model names ({drawn.asked} questions): it answers "
        f"{len(drawn.facts)} the same way in most samples, and {len(drawn.facts) - len(kept)} of them touch the "
        "forget set and are left out."
    )
    return kept if len(kept) >= LEAST_KEPT else []


def _apart(facts: Sequence[AskedFact], forget: _Forget) -> list[AskedFact]:
    """Facts that share nothing with the forget set but the words of its questions."""
    texts = {f"{fact.prompt} {fact.answer}".strip(): fact for fact in facts}
    forgotten = [
        Example(f"forget-{n}", prompt, answer, str(n), str(n)) for n, (prompt, answer) in enumerate(forget.pairs)
    ]
    names = tuple(part for name in forget.names for part in names_of(name))
    spec = DrawSpec(avoid=names, ordinary=tuple(template.ask("") for template in forget.templates))
    return [texts[text] for text in without_forgotten(texts, forgotten, [], spec).texts]


def _holdout_rows(forget: _Forget, retain: Path | None, told: list[str]) -> list[AskedFact]:
    """The same questions about names that nobody has; none if too few questions name anything."""
    if not forget.templates:
        return []
    kept = [] if retain is None else load_source(Source(path=str(retain)), "retain").score
    pairs = [(row.prompt, row.answer.strip()) for row in kept if row.prompt]
    rows = rows_about_nobody(forget.templates, pairs, forget.pairs, max(LEAST, len(forget.pairs)))
    if rows:
        told.append(f"{len(rows)} questions about names that nobody has show what a model that never knew says.")
    return rows


def _write(folder: Path, name: str, rows: Sequence[AskedFact], asking: Asking, told: Sequence[str]) -> Path:
    """A set as a file, and what it is in the note beside it: a row cannot say it of its file."""
    path = folder / f"{name}.jsonl"
    wordings = any(row.wordings for row in rows)
    lines = [json.dumps(row.record(asking, wordings=wordings), ensure_ascii=False) for row in rows]
    write_private(path, "".join(f"{line}\n" for line in lines))
    files = [f"- `{one}.jsonl`: {NOTES[one]}." for one in NOTES if (folder / f"{one}.jsonl").exists()]
    end = "Edit the files as you like: the recipe reads them as they are when it is run."
    write_private(folder / NOTE_FILE, "\n".join([_TITLE, "", *files, "", *told, "", end, ""]))
    return path


def _is_made(path: Path) -> bool:
    """Whether a file is one of those that this module writes: its rows have a column for groups."""
    note = path.parent / NOTE_FILE
    if path.name not in {f"{name}.jsonl" for name in NOTES} or not note.is_file():
        return False
    return note.read_text(encoding="utf-8", errors="replace").startswith(_TITLE)
