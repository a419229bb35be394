"""Facts that are asked from documents: by templates, and by the target itself; what it does not know is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..data.asked_fact import AskedFact, Asking
from ..data.cloze import cloze_fact
from ..data.documents import Document, sentences
from ..data.overlap import words
from ..data.questions import gives_answer, pairs_in, same_question, says, stands_alone
from .drawn_facts import Say
from .respondent import Respondent, Task, is_chat

_WRITTEN_TOKENS = 320
_LEAST_ANSWER_TOKENS = 24

_ASKED_FOR = (
    "Read the text and write up to 5 questions that it answers. Each answer must be copied word for word from the "
    'text and be as short as possible. Name people and things instead of "he", "it" or "the text". Write each as\n'
    "Q: question\nA: answer\n\nText: {}"
)


@dataclass(frozen=True)
class FromDocuments:
    """What was asked from documents.

    Attributes:
        facts: What the target answers without the documents; facts of one sentence are a group.
        by_template: How many were asked by templates.
        by_target: How many questions of the target have their answer in the text, word for word; some may be other
            wordings of a fact that a template asks.
        not_in_text: How many have not, or cannot be understood without it.
        not_known: How many facts of both kinds the target cannot answer without the text.
    """

    facts: tuple[AskedFact, ...]
    by_template: int
    by_target: int
    not_in_text: int
    not_known: int

    @property
    def told(self) -> str:
        """All of it in one sentence."""
        if not (self.by_template or self.by_target or self.not_in_text):
            return "no sentence of the documents ends with a date, a number or a name that could be asked for"
        written = f", {self.by_target} more by the target ({self.not_in_text} of its questions are left out: their "
        written += "answer is not in the text word for word, or they need it to be understood)"
        return (
            f"{self.by_template} facts of the documents are asked by templates"
            + (written if self.by_target or self.not_in_text else "")
            + f"; the target cannot answer {self.not_known} of them without the text, and they are left out"
        )


def document_facts(documents: Sequence[Document], respondent: Respondent, say: Say) -> FromDocuments:
    """Ask facts from documents.

    Args:
        documents: The texts.
        respondent: The target. Only a chat model writes questions itself.
        say: Told what takes time.
    """
    asking = Asking(is_chat(respondent))
    by_template = _template_facts(documents, asking)
    by_target, not_in_text = _target_facts(documents, respondent, asking, say) if is_chat(respondent) else ([], 0)
    every = _once(by_template + by_target)
    if every:
        say(f"the target is asked {len(every)} questions without the text")
    facts = _known(every, respondent) if every else []
    return FromDocuments(tuple(facts), len(by_template), len(by_target), not_in_text, len(every) - len(facts))


def _template_facts(documents: Sequence[Document], asking: Asking) -> list[AskedFact]:
    facts = []
    for number, document in enumerate(documents):
        places = _places(document)
        for place, sentence in places.items():
            if (found := cloze_fact(sentence)) is not None:
                prompt = asking.cloze(found.prompt)
                facts.append(AskedFact(prompt, found.answer, f"sentence-{number}-{place}", "a sentence, cut"))
    return _once(facts)


def _target_facts(
    documents: Sequence[Document], respondent: Respondent, asking: Asking, say: Say
) -> tuple[list[AskedFact], int]:
    passages = [(number, passage) for number, document in enumerate(documents) for passage in document.passages()]
    say(f"the target writes questions about {len(passages)} passages")
    written = respondent.write([Task(_ASKED_FOR.replace("{}", text), _WRITTEN_TOKENS, True) for _, text in passages])
    facts, refused = [], 0
    for (number, passage), text in zip(passages, written, strict=True):
        for question, answer in pairs_in(text):
            if says(passage, answer) and stands_alone(question) and not gives_answer(question, answer):
                place = _place_of(question, answer, passage, _places(documents[number]))
                source = "the target's question about a passage, in which the answer stands word for word"
                facts.append(AskedFact(asking.question(question), answer, f"sentence-{number}-{place}", source))
            else:
                refused += 1
    return facts, refused


def _places(document: Document) -> dict[int, str]:
    """The sentences of a document by number."""
    return dict(enumerate(sentence for part in document.paragraphs() for sentence in part))


def _place_of(question: str, answer: str, passage: str, places: dict[int, str]) -> int:
    """The sentence of a passage that has the answer and most words of the question."""
    inside = set(sentences(passage))
    asked = set(words(question))
    having = {place: text for place, text in places.items() if text in inside and says(text, answer)}
    # An answer may run over the end of a sentence.
    return max(having or places, key=lambda place: len(asked & set(words(places[place]))))


def _once(facts: Sequence[AskedFact]) -> list[AskedFact]:
    """Facts without repetitions; wordings of one question about one sentence are one fact."""
    found: dict[tuple[str, ...], AskedFact] = {}
    for fact in facts:
        known = next(
            (
                key
                for key, one in found.items()
                if one.group == fact.group
                and words(one.answer) == words(fact.answer)
                and same_question(one.prompt, fact.prompt)
            ),
            None,
        )
        if known is not None:
            found[known] = replace(found[known], wordings=(*found[known].wordings, fact.prompt))
        else:
            found.setdefault(tuple(words(f"{fact.prompt} {fact.answer}")), fact)
    return list(found.values())


def _known(facts: Sequence[AskedFact], respondent: Respondent) -> list[AskedFact]:
    """The facts that the target says without the text: the answer stands in what it finds most likely to say."""
    tasks = [
        Task(fact.prompt, _LEAST_ANSWER_TOKENS + len(fact.answer) // 2, is_chat(respondent), stop=("\n",))
        for fact in facts
    ]
    written = respondent.write(tasks)
    return [
        fact
        for fact, text in zip(facts, written, strict=True)
        if says(_beginning(text, fact.answer, whole=is_chat(respondent)), fact.answer)
    ]


def _beginning(text: str, answer: str, *, whole: bool) -> str:
    """What counts as an answer: of a text that goes on with a sentence only its next words."""
    return text if whole else " ".join(text.split()[: len(answer.split()) + 2])
