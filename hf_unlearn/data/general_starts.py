"""Beginnings of ordinary sentences, over what an encyclopedia covers: a model that goes on writes what it knows.

A single word, or nothing at all, is a poor beginning: chat models, and models that have seen much code, go on with
anything. Each of these says what it is about, and leaves open what is said.
"""

from __future__ import annotations

_ABOUT = """
nature: Water is|Most plants|Birds are|A forest is|The ocean|Mountains are|The weather in winter|Many insects|Fish live
nature: Trees need|A desert is|Rivers flow
science: Energy is|The speed of light|Gravity is|An atom consists of|The Sun is|The planets of|A star is|Heat is
science: Scientists have found|An experiment shows|The theory of|Electricity is
chemistry: Chemistry is|Oxygen is|The chemical element|Metals are|Acids are|A molecule of|The elements in
mathematics: The number|A triangle has|The sum of|A fraction is
geography: The continent of|The largest country in|The population of|The state of|The island of|The border between
geography: A map shows|The climate of|The river|The north of
language: Languages differ in|The word|In English,|People who speak|A sentence is|The alphabet of
history: The history of|In the nineteenth century,|The war began|The empire of|Kings and queens|In ancient times,
history: The first president of|The revolution in
society: The government of|The law says|Schools are|Money is|Work is|A family is|Elections are|The economy of
body: The human heart|Sleep is|The brain is|A healthy diet|Doctors say|Vitamins are|Exercise is|The skin is
food: Bread is made|To cook rice,|Cheese is|Fruit and vegetables|Coffee is|A good recipe for
arts: Music is|The novel tells|A painting by|The film is about|Poetry is|The theatre|Dance is|The book was written
sport: Football is|The game is played|The Olympic Games|To win a match,
technology: Computers are|The internet is|A program is|Cars are|A telephone|The engine of|A robot is|An algorithm is
everyday: When I was a child,|One day,|My friend told me|It was a cold morning|She walked into the|He opened the door
everyday: In the kitchen,|On the way home,|Children like|The old man|The best way to|Remember to
"""

GENERAL_STARTS: tuple[str, ...] = tuple(
    start for line in _ABOUT.strip().splitlines() for start in line.partition(": ")[2].split("|")
)
"""All of them, subject after subject."""
