"""Tables of the documentation that are made from the code.

``python docs/tables.py --write`` fills every ``<!-- generated:NAME -->`` ... ``<!-- /generated -->`` block of the
pages in this folder, and writes the index of the registries that lists are read from without torch; ``--check`` says
which file is out of date and ends with 1 if one is.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- generated:(?P<name>[\w:.-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
REGISTRY_COLUMNS = ("name", "what it is", "parameters", "needs", "source", "version")


def registry_table(what: str, kind: str | None = None) -> str:
    """Everything in one registry, as ``hf-unlearn list`` knows it.

    Args:
        what: A list of ``hf-unlearn list``.
        kind: Only entries of this kind, where a list has several.
    """
    from hf_unlearn.cli.listing import entries_of

    return _registry_rows([entry for entry in entries_of(what) if kind in (None, entry.get("kind"))])


def formats_table() -> str:
    """Formats, with what installs them and whether a CPU can make them."""
    from hf_unlearn.cli.listing import entries_of

    rows = []
    for entry in entries_of("formats"):
        if entry["name"].startswith("noise-"):  # one page tells them all, see docs/explanation.md
            continue
        extra = f"`{entry['extra']}`" if entry["extra"] else ""
        names = ", ".join(f"`{name}`" for name in (entry["name"], *entry["aliases"]))
        cpu = "yes" if entry["cpu"] else "no"
        rows.append((names, entry["summary"], str(entry["bits"]), extra, cpu, entry["paper"]))
    return _table(("name", "what it is", "bits", "extra", "made on a CPU", "source"), rows)


def attacks_table() -> str:
    """Attacks by tier, with what the attacker is given and whether a gate judges them by default."""
    from hf_unlearn.attacks import TIERS
    from hf_unlearn.cli.listing import entries_of

    rows = []
    order = {tier: place for place, tier in enumerate(TIERS)}
    for entry in sorted(entries_of("attacks"), key=lambda entry: (order.get(entry.get("tier"), 9), entry["name"])):
        budget = ", ".join(f"`{key}: {_short(value)}`" for key, value in entry["defaults"].items())
        cells = (entry.get("tier", ""), entry["summary"], budget, ", ".join(entry["needs"]))
        rows.append((f"`{entry['name']}`", *cells, "yes" if entry["judged"] else "reported", entry["paper"]))
    return _table(("name", "tier", "what it is", "budget", "needs", "judged", "source"), rows)


def _short(value: Any) -> str:
    text = _value(value)
    return text if len(text) <= 60 else "..."


def controls_table() -> str:
    """Models that hide on purpose."""
    from hf_unlearn.controls import CONTROLS

    return _registry_rows([entry.to_dict() for entry in CONTROLS.entries()])


def _registry_rows(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        parameters = ", ".join(f"`{key}: {_value(value)}`" for key, value in entry["defaults"].items())
        needs, version = ", ".join(entry["needs"]), str(entry.get("version", ""))
        rows.append((f"`{entry['name']}`", entry["summary"], parameters, needs, entry["paper"], version))
    used = [index for index in range(len(REGISTRY_COLUMNS)) if any(row[index] for row in rows)]
    return _table([REGISTRY_COLUMNS[index] for index in used], [[row[index] for index in used] for row in rows])


def agreement_table() -> str:
    """Largest differences from published code, as ``benchmarks/score_agreement.py`` last found them."""
    found = json.loads((DOCS.parent / "benchmarks" / "results" / "score_agreement.json").read_text(encoding="utf-8"))
    rows = [
        (f"`{entry['score']}`", entry["source"], str(entry["values"]), f"{entry['largest']:.2g}", entry["note"])
        for entry in sorted(found["entries"], key=lambda entry: (entry["score"], entry["source"]))
    ]
    return _table(("score", "compared with", "values", "largest difference", "what was compared"), rows)


def recipes_table() -> str:
    """The recipes that come with the package."""
    from hf_unlearn.cli.listing import entries_of

    rows = [(f"`{entry['name']}`", f"`recipes/{entry['path']}`", entry["summary"]) for entry in entries_of("recipes")]
    return _table(("name", "file", "what it does"), rows)


def suites_table() -> str:
    """The suites that come with the package."""
    from hf_unlearn.cli.listing import entries_of

    rows = []
    for entry in entries_of("suites"):
        names = ", ".join(f"`{name}`" for name in entry["sets"])
        over = ", ".join(f"`{name}`" for name in entry["aggregates"])
        rows.append((f"`{entry['name']}`", entry["summary"], names, over, entry["paper"]))
    return _table(("name", "what it is", "sets", "over sets", "source"), rows)


def words_table() -> str:
    """What the words of a report mean."""
    from hf_unlearn.reporting.glossary import GENERAL

    return _table(("word", "meaning"), GENERAL)


def _families() -> list[tuple[str, str]]:
    from hf_unlearn.reporting.glossary import FORMAT_FAMILIES

    return [(f"{start}…" if start.endswith("-") else start, meaning) for start, meaning in FORMAT_FAMILIES]


def keys_table(cls: Any, without: Any = None, like: type | None = None) -> str:
    """Keys of one section of a recipe, from the fields and the docstring of its dataclass.

    Args:
        cls: The dataclass.
        without: A dataclass it is made from, whose keys stand in a table of their own.
        like: Another dataclass whose docstring says what keys mean that have the same name there.
    """
    from hf_unlearn.recipe.meanings import attribute_docs

    inherited = {field.name for field in dataclasses.fields(without)} if without else set()
    own = inspect.get_annotations(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init and field.name not in inherited - own.keys()]
    if without is None:  # what a section has to itself comes before what it shares with others
        fields.sort(key=lambda field: max(n for n, base in enumerate(cls.__mro__) if _declares(base, field.name)))
    meanings = (attribute_docs(like) if like else {}) | attribute_docs(cls)
    if len(fields) == 1:  # then the class and its only field say the same
        meanings.setdefault(fields[0].name, (inspect.getdoc(cls) or "").splitlines()[0])
    rows = [(f"`{field.name}`", _default(field), meanings.get(field.name, "")) for field in fields]
    return _table(("key", "default", "meaning"), rows)


def method_table() -> str:
    """What a method can set besides the fields of ``transformers.TrainingArguments``."""
    from transformers import TrainingArguments

    from hf_unlearn.trainer.config import UnlearnConfig

    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    inherited |= {"end", "trust_remote_code"}  # said once for a whole run, by data.format.end; and never in a recipe
    own = [field for field in dataclasses.fields(UnlearnConfig) if field.name not in inherited]
    return _table(("key", "default", "meaning"), [(f"`{f.name}`", _default(f), f.metadata["help"]) for f in own])


def _declares(cls: type, name: str) -> bool:
    return name in inspect.get_annotations(cls)


def blocks() -> dict[str, Callable[[], str]]:
    """What can stand in a page, by the name in its marker."""
    from hf_unlearn import recipe
    from hf_unlearn.attacks import ATTACKS
    from hf_unlearn.data.encoding import TextFormat
    from hf_unlearn.data.form import FormatSpec
    from hf_unlearn.data.planted import PlantedSpec
    from hf_unlearn.data.self_generated import DrawSpec
    from hf_unlearn.data.sources import Source
    from hf_unlearn.data.world import WorldSpec
    from hf_unlearn.evaluation.run import EvalSpec
    from hf_unlearn.evaluation.suites import HarnessSpec, Shots, Suite, SuiteSet
    from hf_unlearn.models.scratch import ScratchSpec
    from hf_unlearn.quantization.calibration import CalibrationSpec
    from hf_unlearn.verification.gate import Gate

    sections = {
        "model": recipe.ModelSpec,
        "scratch": ScratchSpec,
        "data": recipe.DataSpec,
        "source": Source,
        "planted": PlantedSpec,
        "world": WorldSpec,
        "drawn": DrawSpec,
        "earlier": recipe.EarlierSpec,
        "controls": recipe.ControlSpec,
        "export": recipe.ExportSpec,
        "calibration": CalibrationSpec,
        "evaluate": EvalSpec,
        "gate": Gate,
        "suite": Suite,
        "harness": HarnessSpec,
        "publish": recipe.PublishSpec,
        "benchmarks": recipe.BenchmarkSpec,
        **{f"attack.{entry.name}": entry.value for entry in ATTACKS.entries()},
    }
    made: dict[str, Callable[[], str]] = {
        f"keys:{name}": functools.partial(keys_table, cls) for name, cls in sections.items()
    }
    return made | {
        "keys:method": method_table,
        "keys:format": lambda: keys_table(FormatSpec, like=TextFormat),
        "forget-losses": lambda: registry_table("losses", "forget"),
        "retain-losses": lambda: registry_table("losses", "retain"),
        "alternates": lambda: registry_table("alternates"),
        "robust": lambda: registry_table("robust"),
        "controls": controls_table,
        "formats": formats_table,
        "attacks": attacks_table,
        "metrics": lambda: registry_table("metrics", "row"),
        "aggregates": lambda: registry_table("metrics", "aggregate"),
        "score-agreement": agreement_table,
        "recipes": recipes_table,
        "suites": suites_table,
        "words": words_table,
        "format-families": lambda: _table(("name", "what it is"), [(f"`{name}`", text) for name, text in _families()]),
        "keys:suite-set": lambda: keys_table(SuiteSet, Source),
        "keys:shots": lambda: keys_table(Shots, Source),
    }


def registries_index() -> str:
    """The index of the registries whose modules need torch, from the registries themselves."""
    from hf_unlearn.controls import CONTROLS
    from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES
    from hf_unlearn.quantization import FORMATS
    from hf_unlearn.registry_index import index_text
    from hf_unlearn.robust import ROBUST

    made = {}
    for registry in (FORGET_LOSSES, RETAIN_LOSSES, ROBUST, CONTROLS, FORMATS):
        registry.entries()  # from here on it describes what is registered, not what the index says
        made[registry.kind] = (registry.modules, list(registry.described().values()))
    return index_text(made)


def filled(text: str) -> str:
    """A page with all its blocks made anew.

    Raises:
        KeyError: A marker has a name that nothing is made for.
    """
    made = blocks()
    return BLOCK.sub(lambda found: f"{found[1]}{made[found['name']]()}{found[3]}", text)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_value(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return "**required**"
    value = field.default_factory()
    return "see below" if dataclasses.is_dataclass(value) else f"`{_value(value)}`"


def _value(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    return '""' if value == "" else str(value).replace("\n", "\\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Docstring markup as Markdown, arXiv numbers as links."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`").replace("\\\\n", "\\n")
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return text.replace("|", "\\|")


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check all pages; 1 if a check found one out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="make all blocks anew")
    what.add_argument("--check", action="store_true", help="only say which pages are out of date")
    arguments = parser.parse_args(argv)
    from hf_unlearn.registry_index import INDEX

    stale = []
    made = {INDEX: lambda _: registries_index()} | dict.fromkeys(sorted(DOCS.glob("*.md")), filled)
    for page, make in made.items():
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        new = make(text)
        if new != text:
            stale.append(page.name)
            if arguments.write:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'written' if arguments.write else 'out of date'}: {', '.join(stale)}")
    if stale and arguments.check:
        print("run  python docs/tables.py --write", file=sys.stderr)
    return int(bool(stale) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
