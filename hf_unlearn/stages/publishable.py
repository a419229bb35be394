"""What the publish stage would refuse, and can be known before the stages that take hours."""

from __future__ import annotations

from pathlib import Path

from ..data.example import DataBundle
from ..errors import RequestError
from ..hub.files import is_tokenizer_file
from ..hub.folders import check_place
from ..hub.leaks import ForgetText, find_in_file
from ..recipe import Recipe
from ..verification.digests import list_files
from .publish import published_formats, variant_folder
from .run import Run


def check_words(recipe: Recipe, bundle: DataBundle, command: str | None) -> None:
    """Refuse forget text in what the recipe says for the card.

    Args:
        recipe: The recipe.
        bundle: Its rows.
        command: The command for a single stage that is given; ``None`` for the whole run.

    Raises:
        RequestError: Names the key.
    """
    if not _publishes(recipe, command):
        return
    publish = recipe.publish
    words = {
        "data.description": (recipe.data.description,),
        "publish.model_name": (publish.model_name or recipe.name,),
        "publish.license": (publish.license,),
        "publish.language": publish.language,
        "publish.base_model": (publish.base_model,),
        "publish.repo_id": (publish.repo_id,),
        **{f"data.earlier.{place}": (each.id, each.date) for place, each in enumerate(recipe.data.earlier)},
    }
    forget = _forget_text(bundle)
    for key, texts in words.items():
        for text in texts:
            row = forget.find(text) if text else None
            if row is not None:
                raise RequestError(f"{key} would publish what was to be forgotten (forget row {row + 1}): change it")


def check_places(recipe: Recipe, output_dir: Path, command: str | None) -> None:
    """Refuse folders to publish to that hold something else.

    Args:
        recipe: The recipe.
        output_dir: The run's folder.
        command: The command for a single stage that is given; ``None`` for the whole run.

    Raises:
        RequestError: Names the folder.
    """
    if _publishes(recipe, command):
        for out in (output_dir / "publish", *(variant_folder(output_dir, each) for each in published_formats(recipe))):
            check_place(out)


def _publishes(recipe: Recipe, command: str | None) -> bool:
    return not recipe.is_audit and command in (None, "publish")


def check_published_text(run: Run) -> None:
    """Refuse a target whose tokenizer or chat template holds forget text: it would be published with the model.

    Raises:
        RequestError: Names the file.
    """
    if run.recipe.is_audit:
        return
    folder, forget = run.target.folder, _forget_text(run.context.bundle)
    for name in list_files(folder, links_within=Path(folder.anchor))[0]:
        row = find_in_file(folder / name, name, forget) if is_tokenizer_file(name) else None
        if row is not None:
            raise RequestError(
                f"model.target: {folder / name} holds what is to be forgotten (forget row {row + 1}) and would be "
                "published with the model: remove it there"
            )


def _forget_text(bundle: DataBundle) -> ForgetText:
    return ForgetText((row.prompt, row.answer) for row in bundle.never_said)
