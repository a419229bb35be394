"""What a trainer pushes: weights, configuration, tokenizer and a card that says that nothing was verified.

Never the pickled training arguments, optimizer, scheduler or random states, logs, or anything else in the output
folder: files are taken from a list of names, as for a publication.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFailure, RequestError
from ..runtime.files import link_or_copy
from .card import card_environment
from .client import HubClient
from .files import CARD_FILE, is_model_file, is_weight_file
from .metadata import card_problems, is_hub_id

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
REFUSED_STRATEGIES = ("checkpoint", "all_checkpoints")
"""Values of ``hub_strategy`` that upload checkpoints, and with them the optimizer's state."""

_SHOWN = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "weight_decay", "max_grad_norm"),
    *("bf16", "fp16", "seed"),
)
_NOT_SHOWN = ("model_init_kwargs", "hub_", "logging_", "save_")


@dataclass(frozen=True)
class UnverifiedCard:
    """What a trainer knows about its model.

    Attributes:
        title: Title of the card.
        repo_id: Where the model goes; ``None`` if there is none yet.
        base: Id of the target model on the Hub; ``None`` for a local one.
        adapters: Whether only adapters were trained.
        method: Settings of the run that a reader may want to see.
        counts: Set name to number of rows.
        metrics: The last logged means.
        license: Identifier as the Hub knows it.
        language: Language codes.
        tags: Further tags.
        datasets: Ids of data sets on the Hub.
        versions: Library to version.
    """

    title: str
    repo_id: str | None = None
    base: str | None = None
    adapters: bool = False
    method: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None
    language: str | Sequence[str] | None = None
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def render_unverified_card(card: UnverifiedCard) -> str:
    """The README.md of a model that was trained and not verified.

    Raises:
        RequestError: The metadata would not be accepted by the Hub.
    """
    from huggingface_hub import ModelCardData

    relation = "adapter" if card.adapters else "finetune"
    tags = ["unlearning", "hf_unlearn", "unlearning-verdict:none", *card.tags]
    data = ModelCardData(
        license=card.license,
        language=[card.language] if isinstance(card.language, str) else list(card.language or ()) or None,
        library_name="peft" if card.adapters else "transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(tags)),
        datasets=list(card.datasets) or None,
        base_model=card.base,
        base_model_relation=relation if card.base else None,
    )
    body = card_environment().get_template("unverified.md.j2").render(card=card, repo=card.repo_id or "PATH")
    text = f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"
    problems = card_problems(text)
    if problems:
        raise RequestError(f"the model card's metadata is not what the Hub accepts: {problems[0]}")
    return text


def settings_to_show(config: Any, own: Sequence[str]) -> dict[str, Any]:
    """Settings of a run that a reader may want to see: from an allow-list, so no path and no token is among them.

    Args:
        config: The configuration.
        own: Names of the fields that say how it was unlearned.
    """
    values = {name: getattr(config, name) for name in (*own, *_SHOWN) if not name.startswith(_NOT_SHOWN)}
    return {
        name: getattr(value, "value", value)  # a member of an enumeration is shown by its value
        for name, value in values.items()
        if value is not None and value != [] and value != {} and not (name == "max_steps" and value < 0)
    }


def hub_base(name: object) -> str | None:
    """The id on the Hub that a model was loaded from; ``None`` for a folder or a model built in memory."""
    return name if isinstance(name, str) and is_hub_id(name) and not Path(name).exists() else None


def make_repo(name: str, private: bool | None, token: str | None) -> str:
    """Make a repository if there is none.

    Args:
        name: ``name`` or ``owner/name``.
        private: Whether a new one is private; an existing one stays as it is.
        token: A token; by default that of ``huggingface_hub``.

    Returns:
        Its id.

    Raises:
        RequestError: There is no token.
        EnvironmentFailure: The Hub refused, failed or could not be reached.
    """
    client = HubClient(token)
    made = client.call(f"make {name}", client.api.create_repo, name, private=private, exist_ok=True)
    return str(made.repo_id)


def pushed_files(folder: Path) -> list[str]:
    """The files of a folder that a trainer pushes, sorted.

    Args:
        folder: Where the model was saved.

    Raises:
        RequestError: There are no weights among them.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.glob("*") if path.is_file())
    templates = (path.relative_to(folder).as_posix() for path in folder.glob("additional_chat_templates/*.jinja"))
    found = sorted(name for name in (*names, *templates) if is_model_file(name) or name in ADAPTER_FILES)
    if not any(is_weight_file(name) or name in ADAPTER_FILES for name in found):
        raise RequestError(f"{folder} holds no weights as safetensors: there is nothing to push")
    return found


def push_folder(
    repo_id: str,
    folder: Path,
    card: str,
    message: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    remove: bool = False,
) -> Any:
    """Upload a saved model and its card in one commit.

    Args:
        repo_id: Where to; the repository exists.
        folder: Where the model was saved. Only files from the list are taken.
        card: The card.
        message: Of the commit.
        token: A token; by default that of ``huggingface_hub``.
        revision: Branch; the default branch if ``None``.
        remove: Whether to remove the folder at the end, even after a failure.

    Returns:
        What ``create_commit`` returns.

    Raises:
        RequestError: There are no weights, or there is no token.
        EnvironmentFailure: The Hub refused, failed or could not be reached. The message holds no token.
    """
    from huggingface_hub import CommitOperationAdd

    try:
        client = HubClient(token)
        operations = [CommitOperationAdd(name, str(folder / name)) for name in pushed_files(folder)]
        operations.append(CommitOperationAdd(CARD_FILE, card.encode("utf-8")))
        return client.call(
            f"push to {repo_id}",
            client.api.create_commit,
            repo_id=repo_id,
            operations=operations,
            commit_message=message,
            revision=revision,
        )
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)


def push_later(
    repo_id: str, folder: Path, card: str, message: str, *, token: str | None = None, revision: str | None = None
) -> Future[Any]:
    """:func:`push_folder` in the background, after earlier ones; the folder is removed afterwards.

    Raises:
        RequestError: There is no token.
    """
    from huggingface_hub import run_as_future

    HubClient(token)  # a missing token is reported now
    # The library's own connection has one thread. With a new one, each push would race those before it.
    future: Future[Any] = run_as_future(
        push_folder, repo_id, folder, card, message, token=token, revision=revision, remove=True
    )
    return future


def stage_files(source: Path, target: Path) -> None:
    """Keep files that are being pushed from being removed with their checkpoint.

    Args:
        source: Where the model was saved.
        target: A folder on the same disk; hard links take no room; copies are made if links are not possible.

    Raises:
        EnvironmentFailure: It cannot be written.
    """
    try:
        shutil.rmtree(target, ignore_errors=True)
        for name in pushed_files(source):
            link_or_copy(source / name, target / name)
    except OSError as error:
        raise EnvironmentFailure(f"{target} cannot be written: {error.strerror or error}") from error


def last_metrics(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last logged value of every metric of the objective.

    Args:
        history: What the trainer logged, oldest first.
    """
    found: dict[str, float] = {}
    for entry in history:
        found |= {key: float(value) for key, value in entry.items() if "/" in key and isinstance(value, (int, float))}
    return {key: found[key] for key in sorted(found) if math.isfinite(found[key])}
