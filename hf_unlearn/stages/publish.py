"""The publish stage: the release candidate, its variants, cards, reports and digests, as folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..hub.folders import PublishedFolder, publish_to_folder, write_release
from ..hub.leaks import ForgetText
from ..hub.metadata import CardWords
from ..quantization import FORMATS
from ..recipe import Recipe
from ..reporting.plots import write_plots
from .context import RunContext, Subject
from .report_inputs import description
from .verify import Verified


def publish_stage(context: RunContext, subjects: Sequence[Subject], verified: Verified) -> list[PublishedFolder]:
    """Write ``publish/`` and one ``publish-<format>/`` for each variant, marked with the verdict they have."""
    candidate = next(subject for subject in subjects if subject.name == verified.candidate)
    recipe = context.recipe
    formats = published_formats(recipe)
    words = CardWords(
        title=recipe.publish.model_name or recipe.name,
        removed=description(recipe.data),
        license=recipe.publish.license,
        language=recipe.publish.language,
        base_model=recipe.publish.base_model,
    )
    plots = write_plots(verified.report, context.output_dir / "verify" / "plots", formats=("png",))
    forget = ForgetText((row.prompt, row.answer) for row in context.bundle.forget)
    folders = publish_to_folder(
        candidate.folder,
        {name: context.variant(candidate, name) for name in formats},
        verified.report,
        words,
        out_main=context.output_dir / "publish",
        out_variants={name: variant_folder(context.output_dir, name) for name in formats},
        plots=plots,
        forget_texts=forget,
    )
    write_release(context.output_dir, words, formats, forget)
    return folders


def published_formats(recipe: Recipe) -> tuple[str, ...]:
    """The variants that are published: those named, or all that are made for people to use."""
    if recipe.publish.formats is not None:
        return recipe.publish.formats
    return tuple(name for name in recipe.export.formats if getattr(FORMATS.get(name).value, "published", True))


def variant_folder(output_dir: Path, format_name: str) -> Path:
    """Where a variant is published to."""
    return output_dir / f"publish-{format_name}"
