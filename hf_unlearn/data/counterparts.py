"""The same questions about others: names in questions, and names that nobody has."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .overlap import words
from .world import invented_names

SLOT = "{}"

# A letter that is not small, in Latin; of other letters :func:`begins_as_name` decides.
_LARGE = r"[^\W\d_a-z\u00df-\u00f6\u00f8-\u00ff]"
_CAPITAL = rf"{_LARGE}[^\W_]*(?:['\u2019-]{_LARGE}[^\W_]*)*\.?"
_PARTICLE = r"(?:of|de|da|di|du|la|le|van|von|der|den|bin|ibn|the)"
_NAME = re.compile(rf"{_CAPITAL}(?: (?:{_PARTICLE} ){{0,2}}{_CAPITAL})*")
# What begins a question or a sentence with a capital letter and is no name.
_FIRST_WORDS = frozenset(
    "who whom whose what which where when why how in on at by for from to with is was are were did does do can name "
    "the a an question answer q a tell give say under during after before as i".split()
)
_POSSESSIVE = re.compile(r"['\u2019]s$")
# Nothing that a name usually ends in: an invented place and an invented person look alike.
_ENDINGS = ("dan", "ko", "mir", "nev", "rik", "vel")
_MOST_INVENTED = 800


@dataclass(frozen=True)
class Template:
    """A prompt with a gap where the name stood.

    Attributes:
        prompt: With :data:`SLOT` in place of the name.
        name: The name that it had.
    """

    prompt: str
    name: str

    def ask(self, name: str) -> str:
        """The prompt about somebody or something else."""
        return self.prompt.replace(SLOT, name)


def template_of(prompt: str, names: Sequence[str]) -> Template | None:
    """The template that a prompt comes from; ``None`` where none of the names stands in it.

    Args:
        prompt: A question, or a sentence to go on with.
        names: What the subject may be called, the best name first; all that stand in the prompt become one gap.
    """
    if SLOT in prompt:
        return None
    found = prompt
    for name in sorted(names, key=len, reverse=True):
        found = _as_word(name).sub(lambda _: SLOT, found)
    return Template(found, names[0]) if found != prompt else None


def names_of(subject: str) -> list[str]:
    """What a subject is called: its name, and of a name of several words also the last one, as of people."""
    parts = subject.split()
    last = parts[-1] if len(parts) > 1 and parts[-1][:1].isupper() and len(parts[-1]) > 3 else None
    return [subject] if last is None else [subject, last]


def mentions(text: str, names: Iterable[str]) -> bool:
    """Whether one of the names stands in a text."""
    return any(_as_word(name).search(text) for name in names)


def names_in(prompt: str) -> list[str]:
    """Names in a question: words with capital letters, the longest run of them first."""
    found = []
    for match in _NAME.finditer(prompt):
        parts = _POSSESSIVE.sub("", match[0].rstrip(".")).split()
        while parts and parts[0].lower() in _FIRST_WORDS:
            parts = parts[1:]
        name = " ".join(parts)
        if len(name) > 2 and begins_as_name(name):
            found.append(name)
    return sorted(dict.fromkeys(found), key=lambda name: -len(name.split()))


def begins_as_name(text: str) -> bool:
    """Whether the first and the last word begin with a capital letter: scripts without them show no names."""
    parts = text.split()
    return bool(parts) and parts[0][0].isupper() and parts[-1][0].isupper()


def templates_of(prompts: Sequence[str]) -> list[Template]:
    """The templates of prompts that hold a name each; one of each wording.

    Where a prompt holds several names, the one that is in more of the prompts is taken: rows about one person name
    that person, and other things once.
    """
    held = [names_in(prompt) for prompt in prompts]
    common = Counter(name for names in held for name in names)
    found: dict[str, Template] = {}
    for prompt, names in zip(prompts, held, strict=True):
        if names and (template := template_of(prompt, [max(names, key=lambda name: common[name])])):
            found.setdefault(template.prompt, template)
    return list(found.values())


def invented_like(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Different names that nobody has, each of as many words as one of the given names; small words stay.

    Args:
        names: Names, at least one.
        count: How many.
        seed: Of the draws.
    """
    rng = random.Random(f"invented-names-{seed}")
    pool = iter(invented_names(_ENDINGS, _MOST_INVENTED, rng))
    shapes = [names[number % len(names)].split() for number in range(count)]
    return [" ".join(word if word.islower() else next(pool) for word in shape) for shape in shapes]


def shape_of(answer: str) -> str:
    """What kind of thing an answer is: a ``number``, ``dated`` words, a ``name`` or ``words``."""
    found = words(answer)
    digits = sum(word[0].isdigit() for word in found)
    if digits:
        return "number" if digits == len(found) else "dated"
    return "name" if answer[:1].isupper() else "words"


def _as_word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
