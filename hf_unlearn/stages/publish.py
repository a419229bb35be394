"""The publish stage: the release candidate, its variants, cards, reports and digests, as folders and on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import VerificationError
from ..hub.folders import PublishedFolder, edited_card_words, publish_to_folder, write_release
from ..hub.leaks import ForgetText
from ..hub.metadata import CardWords
from ..hub.publish import publish_run
from ..quantization import FORMATS
from ..recipe import Recipe
from ..reporting.html import PagePlots, render_html
from ..reporting.plots import write_plots
from .context import RunContext
from .report_inputs import description
from .run import Run


def publish_stage(run: Run) -> None:
    """Write the published folders and, if the recipe asks for it, upload them. An audit publishes nothing."""
    if run.recipe.is_audit:
        return
    progress = run.context.progress
    with progress.stage("publish"):
        folders = write_folders(run)
    for each in folders:
        if each.unsigned:
            progress.say(f"{each.path} was signed, but its report is another one now: sign it again")
        if each.card_edited:
            progress.say(edited_card_words(each.path))
    progress.say(f"what can be published is in {folders[0].path}, with {len(folders) - 1} variants next to it")
    upload(run.context)


def write_folders(run: Run) -> list[PublishedFolder]:
    """Write ``publish/`` and one ``publish-<format>/`` for each variant, marked with their verdict."""
    context, recipe, verified = run.context, run.recipe, run.verified
    assert verified is not None  # the verify stage comes before
    candidate = next(subject for subject in run.subjects if subject.name == verified.candidate)
    formats = published_formats(recipe)
    words = CardWords(
        title=recipe.publish.model_name or recipe.name,
        removed=description(recipe.data),
        license=recipe.publish.license,
        language=recipe.publish.language,
        base_model=recipe.publish.base_model,
    )
    plots = write_plots(verified.report, context.output_dir / "verify" / "plots", formats=("png",))
    forget = ForgetText((row.prompt, row.answer) for row in run.bundle.never_said)
    folders = publish_to_folder(
        candidate.folder,
        {name: context.variant(candidate, name) for name in formats},
        verified.report,
        words,
        out_main=context.output_dir / "publish",
        out_variants={name: variant_folder(context.output_dir, name) for name in formats},
        plots=plots,
        page=published_page(verified.report, run.plots),
        forget_texts=forget,
    )
    write_release(context.output_dir, words, formats, forget)
    return folders


def published_page(report: Mapping[str, Any], plots: PagePlots | None = None) -> str:
    """The page as it is published: without the digest of the run's report, which is not that of the published one.

    Args:
        report: The run's report.
        plots: Those of its page, if they are drawn already.
    """
    return render_html({key: value for key, value in report.items() if key != "digest"}, plots)


def upload(context: RunContext) -> None:
    """Upload what was published, if the recipe asks for it; a model that did not pass stays here, without an error."""
    options = context.recipe.publish.hub_options()
    if options is None:
        return
    try:
        publish_run(context.output_dir, options, say=context.progress.say)
    except VerificationError as error:
        context.progress.say(str(error))


def published_formats(recipe: Recipe) -> tuple[str, ...]:
    """The variants that are published: those listed, or all that are made for use."""
    if recipe.publish.formats is not None:
        return recipe.publish.formats
    return tuple(name for name in recipe.export.formats if getattr(FORMATS.get(name).value, "published", True))


def variant_folder(output_dir: Path, format_name: str) -> Path:
    """Where a variant is published to."""
    return output_dir / f"publish-{format_name}"
