"""A card's metadata: what the Hub reads, and what it would refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..verification.references import IDENTITY

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$")
_SLUG = re.compile(r"^[a-z0-9][a-z0-9.+-]*$")
_LANGUAGE = re.compile(r"^([a-z]{2,3}|code|multilingual)$")
_RELATIONS = ("finetune", "quantized", "adapter", "merge")


@dataclass(frozen=True)
class CardWords:
    """What only the publisher can say.

    Attributes:
        title: Title of the card and name in its metadata.
        removed: What was removed, in words that do not give it away.
        license: Identifier as the Hub knows it (``apache-2.0``); ``None`` leaves it out.
        language: Language codes.
        repo_id: Where the main model is published; ``None`` for a folder.
        variant_repo_ids: Format to repository of that variant.
    """

    title: str
    removed: str
    license: str | None = None
    language: tuple[str, ...] = ()
    repo_id: str | None = None
    variant_repo_ids: Mapping[str, str] = field(default_factory=dict)


def card_problems(text: str) -> list[str]:
    """What the Hub would refuse in a card's front matter, checked without a network.

    ``ModelCard.validate`` asks the Hub. This is the part of its rules that concerns the keys we write.

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
        return [f"front matter: {str(error).splitlines()[0]}"]
    if not data:
        return ["front matter: is missing"]
    return [*plain_key_problems(data), *_model_index_problems(data.get("model-index", []))]


def plain_key_problems(data: Mapping[str, Any]) -> list[str]:
    problems = []
    for key in ("license", "library_name", "pipeline_tag"):
        if key in data and not (isinstance(data[key], str) and _SLUG.match(data[key])):
            problems.append(f"{key}: {data[key]!r} is not a lower-case identifier")
    languages = data.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not (isinstance(language, str) and _LANGUAGE.match(language)):
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
    return isinstance(name, str) and bool(_HUB_ID.match(name)) and ".." not in name and "--" not in name


def card_metadata(report: Mapping[str, Any], transform: str, words: CardWords) -> ModelCardData:
    """The front matter of one published folder.

    Args:
        report: The verification report.
        transform: ``identity`` for the main model, or the format of a variant.
        words: What only the publisher can say.

    Returns:
        The metadata. ``base_model`` is left out where the base has no id on the Hub.
    """
    from huggingface_hub import ModelCardData

    variant = transform != IDENTITY
    base = words.repo_id if variant else report["models"]["target"]["hub_id"]
    tags = ["unlearning", "hf_unlearn", f"unlearning-verdict:{report['verdict']['status']}"]
    relation = "quantized" if variant else "finetune"
    return ModelCardData(
        license=words.license,
        language=list(words.language) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*tags, transform] if variant else tags,
        base_model=base,
        model_name=words.title,
        eval_results=eval_results(report, transform),
        base_model_relation=relation if base else None,
    )


def eval_results(report: Mapping[str, Any], transform: str) -> list[EvalResult]:
    """The report's numbers for the released model as ``model-index`` entries.

    For every metric and transform: the forget and retain score, those of the target and the never-knew model beside
    them in ``metric_args``, and the recovered share with its interval.

    Args:
        report: The verification report.
        transform: ``identity`` lists all transforms; a format lists the model as it stands and that format, which
            are the scores before and after quantization.

    Returns:
        The entries; numbers that are undefined are left out, because the Hub wants a value.
    """
    wanted = None if transform == IDENTITY else {IDENTITY, transform}
    subject = report["verdict"]["candidate"]
    scores = {(row["model"], row["transform"], row["split"], row["metric"]): row for row in report["scores"]}
    results = []
    for (model, under, split, metric), row in scores.items():
        if model != subject or split not in ("forget", "retain") or row["value"] is None:
            continue
        if wanted is None or under in wanted:
            beside = {other: scores.get((other, under, split, metric)) for other in ("target", "never_knew")}
            args = {
                "transform": under,
                "n": row["n"],
                **({"ci95": row["ci95"]} if row["ci95"] else {}),
                **{other: found["value"] for other, found in beside.items() if found and found["value"] is not None},
            }
            results.append(_eval_result(split, metric, row["value"], f"{metric} ({under})", args))
    for row in report["recovered"]:
        if row["model"] != subject or row["recovered_share"] is None or (wanted and row["transform"] not in wanted):
            continue
        args = {key: row[key] for key in ("transform", "metric", "n", "ci95", "status")}
        name = f"recovered share of {row['metric']} ({row['transform']})"
        results.append(_eval_result("forget", "recovered_share", row["recovered_share"], name, args))
    return results


def _eval_result(split: str, metric: str, value: float, name: str, args: Mapping[str, Any]) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        task_name="Text Generation",
        dataset_type=f"unlearning-{split}-set",
        dataset_name=f"{split.capitalize()} set",
        dataset_split=split,
        metric_type=metric,
        metric_value=value,
        metric_name=name,
        metric_args=dict(args),
    )
