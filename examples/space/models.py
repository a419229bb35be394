"""The two models: loaded only if they may be, asked in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings import Settings

from hf_unlearn import VerifiedModel
from hf_unlearn.errors import EnvironmentFailure, HfUnlearnError, RequestError
from hf_unlearn.hub.verified import CheckResult, check

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REPORT_FILE = "unlearning_report.json"
AS_IS = "identity"


@dataclass(frozen=True)
class Loaded:
    """A model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)


@dataclass(frozen=True)
class Side:
    """One of the two models as the page shows it.

    Attributes:
        role: What it is: ``Unlearned``, ``Before unlearning`` ...
        name: Its id or folder.
        trust: ``verified``, ``refused``, ``unverified`` or ``absent``.
        message: One sentence: what was verified, or why the model was not loaded.
        report: The report, if the folder has an intact one.
        loaded: The model, if it may be asked.
    """

    role: str
    name: str
    trust: str
    message: str
    report: Mapping[str, Any] | None = None
    loaded: Loaded | None = None


def load_both(settings: Settings) -> tuple[Side, Side]:
    """The published model, and the one it is compared with. What cannot be loaded says why and stops nothing else."""
    first = published_side("Unlearned", settings.model_id, settings.revision, settings)
    name, revision = compared_with(settings, first.report)
    if name is None:
        told = "The report names no target on the Hub: set COMPARE_WITH to the model to compare with."
        return first, Side("To compare with", "no model", "absent", told)
    try:
        published = has_report(name, revision)
    except HfUnlearnError as error:
        return first, Side("To compare with", name, "absent", sentence(error))
    if not published:
        return first, plain_side(
            "Before unlearning" if is_target(name, first.report) else "Other model", name, revision, settings
        )
    return first, published_side("Other release", name, revision, settings)


def compared_with(settings: Settings, report: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """Name and revision of the other model: as set, or the target at the commit that the report was made with."""
    target = ((report or {}).get("models") or {}).get("target") or {}
    if settings.compare_with is None:
        return target.get("hub_id"), settings.compare_revision or target.get("revision")
    pinned = target.get("revision") if settings.compare_with == target.get("hub_id") else None
    return settings.compare_with, settings.compare_revision or pinned


def is_target(name: str, report: Mapping[str, Any] | None) -> bool:
    """Whether a model is the target of a report."""
    target = ((report or {}).get("models") or {}).get("target") or {}
    return name == target.get("hub_id")


def has_report(name: str, revision: str | None) -> bool:
    """Whether a folder or repository holds a report, intact or not: then it must be verified.

    Raises:
        RequestError: It is neither a folder nor an id.
        EnvironmentFailure: The Hub cannot be reached, or it has no such repository.
    """
    if Path(name).is_dir():
        return (Path(name) / REPORT_FILE).exists()
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return file_exists(name, REPORT_FILE, revision=revision)
    except HFValidationError:
        raise RequestError(f"{name} is neither a folder here nor an id on the Hub") from None
    except (HfHubHTTPError, OSError) as error:
        raise EnvironmentFailure(f"{name} cannot be looked at: {str(error).splitlines()[0]}") from error


def published_side(role: str, name: str, revision: str | None, settings: Settings) -> Side:
    """A published model, loaded only if every file is what its report says and the verdict is good enough."""
    keys = [settings.trusted_key] if settings.trusted_key else None
    side = Side(role, name, "refused", "")
    try:
        result = check(name, revision, trusted_keys=keys or ())
        side = replace(side, report=result.report, role=role_of(role, result.report))
        # The commit that was checked, and no later one; its report, and no other one.
        model = VerifiedModel.from_pretrained(
            name,
            revision=result.commit,
            require=settings.require,
            trusted_keys=keys,
            report_digest=result.report_digest,
            **_loading(settings),
        )
        loaded = Loaded(model, _tokenizer(result.folder))
    except (HfUnlearnError, OSError, ValueError, ImportError) as error:
        return replace(side, message=f"Not verified, so it was not loaded. {sentence(error)}")
    return replace(side, trust="verified", message=verified_words(result), loaded=loaded)


def role_of(role: str, report: Mapping[str, Any] | None) -> str:
    """The role with the format, for a folder that holds a quantized variant."""
    name = (report or {}).get("format")
    return role if name in (None, AS_IS) else f"Unlearned, {name}"


def verified_words(result: CheckResult) -> str:
    """What was checked, in one sentence."""
    at = f" at {result.commit[:12]}" if result.commit else ""
    by = f", signed by {result.signature.by}" if result.signature.by else ""
    return f"Verified{at}: every file is what the report says, the verdict is {result.status}{by}."


def plain_side(role: str, name: str, revision: str | None, settings: Settings) -> Side:
    """A model without a report, such as the target: loaded as any model is, and called not verified."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    side = Side(role, name, "absent", "")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True, **_loading(settings)
        )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        return replace(side, message=f"It could not be loaded. {sentence(error)}")
    at = f" at {revision[:12]}" if revision else ""
    told = f"An ordinary model{at}: it has no report, so nothing about it was verified."
    return replace(side, trust="unverified", message=told, loaded=Loaded(model.eval(), tokenizer))


def _loading(settings: Settings) -> dict[str, Any]:
    import torch

    place = {"device_map": "auto"} if torch.cuda.is_available() else {}
    return {"dtype": settings.dtype, **place}


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from hf_unlearn.data.encoding import load_tokenizer

    return load_tokenizer(str(folder))


def sentence(error: BaseException) -> str:
    """The first line of an error, as a sentence."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: Its own answer, greedily decoded.
        probability: Of the expected answer, as the metric ``probability`` of reports has it (the geometric mean over
            the answer's tokens, in 0 ... 1); ``None`` without an expected answer.
    """

    text: str
    probability: float | None


def ask(loaded: Loaded, prompt: str, answer: str, *, chat: bool, max_new_tokens: int) -> Reply:
    """One prompt to one model.

    Args:
        loaded: The model.
        prompt: The prompt.
        answer: The expected answer; empty if none is expected.
        chat: Whether the prompt is a user's message in the chat template, for a model that has one.
        max_new_tokens: Maximum number of tokens of its answer.

    Raises:
        RequestError: The prompt is too long for the model, or its chat template refuses it.
    """
    from hf_unlearn.data.encoding import TextFormat, encode_prompt, lacks_space
    from hf_unlearn.data.example import Example
    from hf_unlearn.evaluation.batch_runner import Passes
    from hf_unlearn.evaluation.generation import Prompt, generate
    from hf_unlearn.evaluation.metrics import apply_metrics
    from hf_unlearn.evaluation.scoring import score_rows

    # A chat template is rendered with some answer in any case; it is not read where none is expected.
    row = Example("prompt", prompt, answer or "-", fact="prompt", group="prompt", origin="your prompt")
    chat = chat and loaded.chats
    fmt = TextFormat(kind="chat" if chat else "plain", separator=" " if lacks_space([row]) else "")
    # First the model as a whole: some packed formats unpack their weights then, and scoring calls parts of it.
    ids = encode_prompt(row, loaded.tokenizer, fmt)
    (text,) = generate(loaded.model, loaded.tokenizer, [Prompt(ids, "your prompt", max_new_tokens)], Passes(4096))
    if not answer:
        return Reply(text.strip(), None)
    (record,) = apply_metrics(score_rows(loaded.model, loaded.tokenizer, {"asked": [row]}, fmt), ["probability"])
    return Reply(text.strip(), record.values["probability"])
