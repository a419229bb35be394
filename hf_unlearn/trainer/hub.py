"""To the Hub from a trainer: what its users expect, limited to a list of files, with a card that claims nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import Trainer

from .._compat import PushInProgress
from ..hub.files import CARD_FILE
from ..hub.from_trainer import (
    UnverifiedCard,
    hub_base,
    last_metrics,
    make_repo,
    push_folder,
    push_later,
    render_unverified_card,
    settings_to_show,
    stage_files,
)

logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """The part of :class:`~hf_unlearn.trainer.unlearn_trainer.UnlearnTrainer` that talks to the Hub.

    Everything that [`~transformers.Trainer`] uploads goes through here, so that only weights as safetensors,
    configuration, tokenizer and card leave the machine.
    """

    args: Any
    model: Any
    train_dataset: Any
    hub_model_id: Any
    push_in_progress: Any

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes `README.md` into the output folder: a card that says that nothing was verified, and how to verify it.

        Args:
            language, license, tags, model_name, finetuned_from, dataset: As in
                [`~transformers.Trainer.create_model_card`].
            tasks, dataset_tags, dataset_args: Taken as there, and not used: they describe evaluations, which belong
                in a verification.

        Raises:
            RequestError: If the metadata would not be accepted by the Hub.
        """
        if not self.is_world_process_zero():
            return
        card = self._card(language, license, _as_list(tags), model_name, finetuned_from, _as_list(dataset))
        Path(str(self.args.output_dir), CARD_FILE).write_text(card, encoding="utf-8")

    def write_adapter_card(self, folder: Path) -> None:
        """Puts the card into a folder of saved adapters, where peft leaves a form that nobody has filled in."""
        if hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            (folder / CARD_FILE).write_text(self._card(), encoding="utf-8")

    def _card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: Sequence[str] = (),
        model_name: str | None = None,
        finetuned_from: str | None = None,
        datasets: Sequence[str] = (),
    ) -> str:
        repo_id = self.hub_model_id or self.args.hub_model_id
        own = [item.name for item in fields(self.args) if item.name in type(self.args).__annotations__]
        if not self.args.trust_remote_code:  # worth a line only where code from elsewhere ran
            own.remove("trust_remote_code")
        return render_unverified_card(
            UnverifiedCard(
                title=model_name or (repo_id or Path(str(self.args.output_dir)).absolute().name).rpartition("/")[2],
                repo_id=repo_id,
                base=hub_base(finetuned_from or self.model.config._name_or_path),
                adapters=hasattr(self.accelerator.unwrap_model(self.model), "peft_config"),
                method=settings_to_show(self.args, own),
                counts={"forget": len(self.train_dataset.forget), "retain": len(self.train_dataset.retain)},
                metrics=last_metrics(self.state.log_history),
                license=license,
                language=language,
                tags=tags,
                datasets=datasets,
                versions={name: metadata.version(name) for name in ("hf_unlearn", "transformers", "torch")},
            )
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model and uploads it with its card in one commit; see [`~transformers.Trainer.push_to_hub`].

        Only weights, configuration, tokenizer and card are uploaded, never the pickled arguments or a checkpoint.

        Args:
            commit_message: Of the commit.
            blocking: Whether to wait for the upload.
            token: A token that may write; by default `args.hub_token` or the one that is logged in.
            revision: Branch; by default `args.hub_revision`.
            private: Whether a repository that is made for this is private; by default `args.hub_private_repo`.
            **kwargs: Passed to [`create_model_card`].

        Returns:
            What [`~huggingface_hub.HfApi.create_commit`] returns, or a future of it if not `blocking`; `None` on
            processes other than the first.

        Raises:
            RequestError: If there is no token, or the card's metadata would not be accepted by the Hub.
            EnvironmentFailure: If the Hub refuses, fails or cannot be reached. The message holds no token.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = [*_as_list(kwargs.pop("tags", None)), *(getattr(self.model, "model_tags", None) or ())]
        self.create_model_card(**{"tags": tags, **kwargs})
        self._finish_current_push()
        folder = Path(str(self.args.output_dir))
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
        token, revision = token or self.args.hub_token, revision or self.args.hub_revision
        message = commit_message or "End of training"
        if blocking:
            return push_folder(self.hub_model_id, folder, card, message, token=token, revision=revision)
        work = folder / "_push"
        stage_files(folder, work)
        return push_later(self.hub_model_id, work, card, message, token=token, revision=revision)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository if there is none; see [`~transformers.Trainer.init_hf_repo`].

        Raises:
            RequestError: If there is no token.
            EnvironmentFailure: If the Hub refuses, fails or cannot be reached. The message holds no token.
        """
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        private = self.args.hub_private_repo if private is None else private
        self.hub_model_id = make_repo(name, private, token or self.args.hub_token)
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With `hub_strategy="every_save"`: uploads the model of a checkpoint in the background."""
        if not self.is_world_process_zero() or self.args.hub_strategy == "end":
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        step = self.state.global_step
        work = Path(str(self.args.output_dir)) / f"_push-{step}"
        stage_files(Path(checkpoint_folder), work)
        message = f"Training in progress, step {step}"
        token, revision = self.args.hub_token, self.args.hub_revision
        job = push_later(self.hub_model_id, work, self._card(), message, token=token, revision=revision)
        job.add_done_callback(_warn_of_failure)
        if self.push_in_progress is not None and busy:
            self.push_in_progress.jobs.append(job)
        else:
            jobs: Any = [job]  # declared as a single job there, but used as a list
            self.push_in_progress = PushInProgress(jobs)


def _as_list(words: str | Sequence[str] | None) -> list[str]:
    return [words] if isinstance(words, str) else list(words or ())


def _warn_of_failure(job: Future[Any]) -> None:
    error = None if job.cancelled() else job.exception()
    if error is not None:
        logger.warning("%s", error)
