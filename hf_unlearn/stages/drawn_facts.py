"""Facts that a target is asked for: about a subject, and about others like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data.asked_fact import AskedFact, Asking, with_wordings
from ..data.counterparts import Template, mentions, names_of
from ..data.questions import agreed, distinct, list_items, questions_in, short_answer
from .respondent import Respondent, Task, is_chat

SAMPLES = 5
"""How often a question is asked: once for the most likely answer, else for a sampled one.

An answer counts if more than half of them agree on it.
"""
LISTS = 3
"""How many lists of questions are sampled of each wording."""
MOST_QUESTIONS = 120
OTHERS = 15
"""How many other subjects are asked about."""

_LIST_TOKENS = 256
_ANSWER_TOKENS = 20
_ANSWER_TEMPERATURE = 0.5
_NAMES_TOKENS = 120
_LONGEST_NAME = 4

_ASKED_FOR = (
    "Write a numbered list of 10 short questions about {}. Each must name {} and have a short answer, such as "
    "a name, a place, a date or a number.",
    "Write 10 quiz questions about {}, one per line, without the answers. Name {} in each of them.",
)
# For any model, and what small ones can do: a list to go on with. None of it is about the subject itself.
_BEGUN = {
    "Japan": (
        "What is the capital of Japan?",
        "In which ocean does Japan lie?",
        "What is the currency of Japan?",
        "What is the highest mountain in Japan?",
    ),
    "Isaac Newton": (
        "In which year was Isaac Newton born?",
        "In which country was Isaac Newton born?",
        "At which university did Isaac Newton study?",
        "What is the best known book by Isaac Newton?",
    ),
    "Hamlet": (
        "Who wrote Hamlet?",
        "In which country does Hamlet take place?",
        "In which century was Hamlet written?",
        "Who is the uncle of Hamlet?",
    ),
}
_NAMES_ASKED_FOR = (
    "Write a list of 20 others that are of the same kind as {}, one per line. Only their names, no explanations.",
    "{} is one of many. Name 20 others like it, one per line. Only their names.",
)
_NAMES_BEGUN = (
    "Names of the same kind, one per line.\n\nGermany, Japan and others:\n1. Canada\n2. Egypt\n3. Norway\n\n"
    "Isaac Newton, Johannes Kepler and others:\n1. Albert Einstein\n2. Max Planck\n3. Charles Darwin\n\n"
    "{} and others:\n1."
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Drawn:
    """What a target was asked, and what it knew.

    Attributes:
        facts: Questions to which it gives one answer.
        asked: How many different questions it was asked.
    """

    facts: tuple[AskedFact, ...]
    asked: int


def subject_facts(subject: str, respondent: Respondent, say: Say) -> Drawn:
    """Questions about a subject that the target writes, with the answers that it gives to them.

    Lists of questions are sampled; those that name the subject are put to the target several times, each alone. A
    question is kept if more than half of the answers agree, are short and are not in the question.

    Args:
        subject: A name.
        respondent: The target.
        say: Told what takes time.
    """
    names = names_of(subject)
    say(f"the target writes questions about {subject}")
    written = respondent.write(_list_tasks(subject, names, is_chat(respondent)))
    asked = distinct(question for text in written for question in questions_in(text))
    asked = [question for question in asked if mentions(question, names)][:MOST_QUESTIONS]
    say(f"the target answers {len(asked)} of them, {SAMPLES} times each")
    asking = Asking(is_chat(respondent))
    facts = answered([asking.question(question) for question in asked], respondent, group="fact")
    return Drawn(tuple(with_wordings(facts)), len(asked))


def _list_tasks(subject: str, names: Sequence[str], chat: bool) -> list[Task]:
    known = [about for about in _BEGUN if not mentions(about, names) and not mentions(subject, names_of(about))]
    prompts = [(_begun(subject, [about, *(o for o in known if o != about)]), False) for about in known]
    if chat:
        prompts += [(text.replace("{}", subject), True) for text in _ASKED_FOR]
    return [
        Task(prompt, _LIST_TOKENS, as_chat, sample, stop=() if as_chat else ("\n\n",))
        for prompt, as_chat in prompts
        for sample in range(LISTS)
    ]


def _begun(subject: str, examples: Sequence[str]) -> str:
    """Lists of questions about examples, the nearest last, and the first number of one about the subject."""
    lists = [
        f"10 questions about {about}:\n" + "".join(f"{n}. {each}\n" for n, each in enumerate(_BEGUN[about], start=1))
        for about in reversed(examples)
    ]
    return "\n".join([*lists, f"10 questions about {subject}:\n1."])


def answered(prompts: Sequence[str], respondent: Respondent, group: str, chat: bool | None = None) -> list[AskedFact]:
    """The prompts to which a target gives one answer, with it.

    Args:
        prompts: As they are put.
        respondent: The target.
        group: What groups are called; each fact is one.
        chat: Whether they are put as messages of a user; as the target is if left out.
    """
    as_chat = is_chat(respondent) if chat is None else chat
    stop = () if as_chat else ("\n",)
    # The first is the most likely answer, which is then the one that is written down if most agree with it.
    tasks = [
        Task(prompt, _ANSWER_TOKENS, as_chat, sample or None, _ANSWER_TEMPERATURE, stop)
        for prompt in prompts
        for sample in range(SAMPLES)
    ]
    written = respondent.write(tasks)
    facts: list[AskedFact] = []
    for number, prompt in enumerate(prompts):
        found = agreed(prompt, [short_answer(text) for text in written[number * SAMPLES : (number + 1) * SAMPLES]])
        if found is not None:
            source = f"the target's own answer, in {found[1]} of {SAMPLES} samples"
            facts.append(AskedFact(prompt, found[0], f"{group}-{len(facts) + 1:03d}", source))
    return facts


def others_like(names: Sequence[str], respondent: Respondent) -> list[str]:
    """Names of other subjects that the target gives when it is asked for some like these, the most frequent first.

    Args:
        names: Names of what is forgotten, which are left out, and so is each other name that holds one of them.
        respondent: The target.
    """
    shown = list(dict.fromkeys(names))[:LISTS]
    tasks = []
    for name in shown:
        prompts = [(_NAMES_BEGUN.replace("{}", name), False)]
        if is_chat(respondent):
            prompts += [(text.replace("{}", name), True) for text in _NAMES_ASKED_FOR]
        tasks += [
            Task(prompt, _NAMES_TOKENS, chat, sample, stop=() if chat else ("\n\n",))
            for prompt, chat in prompts
            for sample in range(LISTS)
        ]
    forgotten = [part for name in names for part in names_of(name)]
    found = Counter(
        name
        for text in respondent.write(tasks)
        for name in dict.fromkeys(list_items(text))
        if _is_name(name) and not mentions(name, forgotten) and not any(mentions(part, [name]) for part in names)
    )
    return [name for name, _ in found.most_common(OTHERS)]


def _is_name(text: str) -> bool:
    parts = text.split()
    plain = all(part.replace("-", "").replace("'", "").replace(".", "").isalpha() for part in parts)
    return bool(parts) and len(parts) <= _LONGEST_NAME and plain and parts[0][0].isupper() and parts[-1][0].isupper()


def facts_about_others(
    templates: Sequence[Template], names: Sequence[str], respondent: Respondent, chat: bool, say: Say
) -> Drawn:
    """The same questions about other subjects, with the answers that the target gives; each subject is a group.

    Args:
        templates: The questions.
        names: The other subjects.
        respondent: The target.
        chat: Whether the questions are put as messages of a user.
        say: Told what takes time.
    """
    # Some of the questions about each of several others tell more than all of them about a few.
    some = max(1, MOST_QUESTIONS // max(1, len(names)))
    step = max(1, len(templates) // some)
    pairs = [(template, name) for name in names for template in templates[::step][:some]]
    about = {template.ask(name): name for template, name in pairs}
    say(f"the target answers {len(about)} questions about {len(names)} others, {SAMPLES} times each")
    found = answered(list(about), respondent, group="kept", chat=chat)
    facts = [AskedFact(fact.prompt, fact.answer, about[fact.prompt], fact.source) for fact in found]
    return Drawn(tuple(facts), len(about))
