"""A card's metadata: what the Hub reads, and what it would refuse."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import first_line
from ..reporting.results import Results
from ..reporting.words import metric_phrase
from ..verification.controls import all_as_expected
from ..verification.references import IDENTITY
from ..verification.values import Settings
from .card_tables import emissions

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$")
_SLUG = re.compile(r"^[a-z0-9][a-z0-9.+-]*$")
_LANGUAGE = re.compile(r"^([a-z]{2,3}|code|multilingual)$")
_VERDICT = "unlearningverdict"
_WANTED = {"forget": "lower", "retain": "higher"}
_MOST_METRICS = 12
_DIGITS = 4
_RELATIONS = ("finetune", "quantized", "adapter", "merge")


@dataclass(frozen=True)
class CardWords:
    """What only the publisher can say.

    Attributes:
        title: Title of the card and name in its metadata.
        removed: What was removed, in words that do not give it away.
        license: Identifier as the Hub knows it (``apache-2.0``); ``None`` leaves it out.
        language: Language codes.
        base_model: Id of the target on the Hub, if the report does not have it.
        repo_id: Where the main model is published; ``None`` for a folder.
        variant_repo_ids: Format to repository of that variant.
        variant_revisions: Format to branch of ``repo_id``, for variants that have no repository of their own.
        base_license: Licence of the base model, if it is known; it binds the unlearned model too.
    """

    title: str
    removed: str
    license: str | None = None
    language: tuple[str, ...] = ()
    base_model: str | None = None
    repo_id: str | None = None
    variant_repo_ids: Mapping[str, str] = field(default_factory=dict)
    variant_revisions: Mapping[str, str] = field(default_factory=dict)
    base_license: str | None = None

    def __post_init__(self) -> None:
        for key in ("title", "removed"):
            object.__setattr__(self, key, one_visible_line(getattr(self, key)))


def one_visible_line(text: str) -> str:
    """A text on one line, without characters that nobody sees or that change the direction of others."""
    shown = (" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(letter for letter in shown if letter == " " or letter.isprintable()).split())


def verdict_problem(text: str) -> str | None:
    """What is wrong with words of a publisher that could be taken for the verdict; ``None`` if nothing is."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalpha())
    return "it must not speak of the unlearning verdict, which the card gives" if _VERDICT in letters else None


def card_problems(text: str) -> list[str]:
    """What the Hub would refuse in a card's front matter, checked without a network.

    ``ModelCard.validate`` asks the Hub. This is the part of its rules about the keys we write.

    Args:
        text: The whole card.

    Returns:
        Sentences, each naming the key; empty if all is well.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data = ModelCard(text).data.to_dict()
    except (ValueError, TypeError, YAMLError) as error:
        return [f"front matter: {first_line(error)}"]
    if not data:
        return ["front matter: is missing"]
    return metadata_problems(data)


def metadata_problems(data: Mapping[str, Any]) -> list[str]:
    """:func:`card_problems` for metadata that is not text yet (or no longer)."""
    return [*plain_key_problems(data), *_model_index_problems(data.get("model-index", []))]


def plain_key_problems(data: Mapping[str, Any]) -> list[str]:
    """What the Hub would refuse in the keys of a card's metadata that hold plain words."""
    problems = []
    for key in ("license", "library_name", "pipeline_tag"):
        if key in data and not (isinstance(data[key], str) and _SLUG.fullmatch(data[key])):
            problems.append(f"{key}: {data[key]!r} is not a lower-case identifier")
    languages = data.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not (isinstance(language, str) and _LANGUAGE.fullmatch(language)):
            problems.append(f"language: {language!r} is not a language code")
    tags = data.get("tags", [])
    if not all(isinstance(tag, str) and tag.strip() == tag != "" and "\n" not in tag for tag in tags):
        problems.append("tags: must be words")
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not is_hub_id(base):
            problems.append(f"base_model: {base!r} is not an id on the Hub")
    if data.get("base_model_relation", "finetune") not in _RELATIONS:
        problems.append(f"base_model_relation: must be one of {', '.join(_RELATIONS)}")
    return problems


def _model_index_problems(index: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    for model in index:
        if not model.get("name"):
            problems.append("model-index: the model has no name")
        for result in model.get("results", []):
            for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
                problems += [
                    f"model-index: {part}.{key} is missing" for key in keys if not result.get(part, {}).get(key)
                ]
            for metric in result.get("metrics") or [{}]:
                if not metric.get("type") or isinstance(metric.get("value"), bool | None):
                    problems.append("model-index: a metric needs a type and a value")
    return problems


def is_hub_id(name: object) -> bool:
    """Whether this can be the id of a model on the Hub (``name`` or ``owner/name``)."""
    return isinstance(name, str) and bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def metadata_yaml(data: Mapping[str, Any]) -> str:
    """A card's metadata as ``ModelCardData.to_yaml`` writes it, with the compiled YAML writer if there is one.

    Args:
        data: What ``ModelCardData.to_dict`` gives.
    """
    import yaml

    text = str(
        yaml.dump(dict(data), Dumper=getattr(yaml, "CDumper", yaml.Dumper), allow_unicode=True, sort_keys=False)
    )
    if "\\U" in text:  # it escapes characters beyond 16 bits, such as emoji, which the other one writes as they are
        text = str(yaml.dump(dict(data), allow_unicode=True, sort_keys=False))
    return text.strip()


def card_metadata(results: Results, transform: str, words: CardWords) -> ModelCardData:
    """The front matter of one published folder.

    Args:
        results: The verification report.
        transform: ``identity`` for the main model, or the format of a variant.
        words: What only the publisher can say.

    Returns:
        The metadata. ``base_model`` is left out if the base has no id on the Hub, and on a branch of the main
        repository, which would be a variant of itself.
    """
    from huggingface_hub import ModelCardData

    report = results.report
    variant = transform != IDENTITY
    base = words.repo_id if variant else report.models.target.hub_id or words.base_model
    if transform in words.variant_revisions:
        base = None
    tags = ["unlearning", "hf_unlearn", f"unlearning-verdict:{report.verdict.status}"]
    tags += [] if all_as_expected(report.controls) else ["unlearning-controls:failed"]
    relation = "quantized" if variant else "finetune"
    emitted = emissions(report)
    return ModelCardData(
        license=words.license,
        language=list(words.language) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*tags, transform] if variant else tags,
        base_model=base,
        model_name=words.title,
        eval_results=eval_results(results, transform),
        base_model_relation=relation if base else None,
        co2_eq_emissions=_emissions(emitted) if emitted else None,
    )


def _emissions(measured: Settings) -> dict[str, Any]:
    """The Hub's key; anything but plain text is left out, because the Hub accepts only text there."""
    words = ("source", "training_type", "geographical_location", "hardware_used")
    texts = {key: measured[key] for key in words if isinstance(measured.get(key), str)}
    return {"emissions": float(measured["grams"]), **texts}


def eval_results(results: Results, transform: str) -> list[EvalResult]:
    """The first numbers of a card as ``model-index`` entries: a dozen at most; the rest is in its tables.

    Forget and retain score in one metric of the gate, as the model is and in its formats. The target's score under the
    same condition, which is that from before unlearning, stands beside each.

    Args:
        results: The verification report.
        transform: ``identity`` lists the first formats of the gate; a format lists the model as it is and that format,
            which are the scores before and after quantization.

    Returns:
        The entries by condition, as in the gate; numbers that are undefined are left out, because the Hub requires a
        value.
    """
    subject = results.report.verdict.candidate
    metrics = results.gate_metrics
    metric = results.headline if results.headline in metrics or not metrics else metrics[0]
    found = []
    for under in results.transforms:
        wanted = under.kind != "attack" if transform == IDENTITY else under.name in (IDENTITY, transform)
        if not wanted or metric is None:
            continue
        for split in ("forget", "retain"):
            value = results.value(subject, under.name, split, metric)
            if value is None:
                continue
            before = results.value("target", under.name, split, metric)
            args: dict[str, Any] = {"transform": under.name}
            args |= {} if before is None else {"target": round(before, _DIGITS)}
            name = f"{split} {metric_phrase(metric)} ({under.label})"
            found.append(_eval_result(split, metric, round(value, _DIGITS), name, args))
    return found[:_MOST_METRICS]


def _eval_result(split: str, metric: str, value: float, name: str, args: Mapping[str, Any]) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        task_name="Text Generation",
        dataset_type=f"unlearning-{split}-set",
        dataset_name=f"{split.capitalize()} set ({_WANTED[split]} is better)",
        dataset_split=split,
        metric_type=metric,
        metric_value=value,
        metric_name=name,
        metric_args=dict(args),
    )
