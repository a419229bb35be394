"""``hf-unlearn publish RUN --repo-id OWNER/NAME``: a finished run to the Hub."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, printable
from ..stages import stage_named
from .command import Command
from .run import add_recipe_arguments, run_recipe

if TYPE_CHECKING:
    from ..hub.options import HubOptions

_FLAGS = (
    "public",
    "gated",
    "branches",
    "tag",
    "no_collection",
    "allow_not_passed",
    "private_key",
    "sigstore",
    "dry_run",
)


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_recipe_arguments(command, "RUN")
    text = "upload to the Hub: the model as OWNER/NAME, each format as OWNER/NAME-FORMAT"
    command.add_argument("--repo-id", metavar="OWNER/NAME", help=text)
    command.add_argument("--public", action="store_true", help="make it visible to everybody (default: private)")
    command.add_argument("--gated", choices=("auto", "manual"), help="readers must request access")
    text = "publish variants as branches of one repository instead of separate repositories"
    command.add_argument("--branches", action="store_true", help=text)
    command.add_argument("--tag", metavar="TAG", help="tag of the release (default: v1); it is never moved")
    command.add_argument("--no-collection", action="store_true", help="do not put the repositories into a collection")
    text = "upload even if the verdict is not passed or a control got a wrong verdict; the card says so at the top"
    command.add_argument("--allow-not-passed", action="store_true", help=text)
    how = command.add_mutually_exclusive_group()
    text = "sign the reports with this key (PEM); its password from HF_UNLEARN_KEY_PASSWORD"
    how.add_argument("--private-key", metavar="KEY", type=Path, help=text)
    how.add_argument("--sigstore", action="store_true", help="sign as the CI job this runs in, or by a browser login")
    text = "only write the folders that would be uploaded (RUN/hub), without contacting the Hub"
    command.add_argument("--dry-run", action="store_true", help=text)


def _publish(arguments: argparse.Namespace) -> int:
    if not _wants_hub(arguments):
        return run_recipe(arguments, "publish")
    run = Path(arguments.recipe)
    if run.is_dir():
        _check_run_arguments(arguments)
        return _publish_finished(arguments, run)
    from ..recipe import load_recipe

    run = arguments.output_dir or Path("runs") / load_recipe(arguments.recipe, arguments.overrides).name
    run_recipe(arguments, "publish")
    return _publish_finished(arguments, run)


def _wants_hub(arguments: argparse.Namespace) -> bool:
    """Whether ``publish`` is about a finished run or the Hub, rather than about a recipe's stage alone.

    Raises:
        RequestError: Options that only mean something on the way to the Hub are given with a recipe alone.
    """
    if arguments.repo_id is not None or Path(arguments.recipe).is_dir():
        return True
    given = [name for name in _FLAGS if getattr(arguments, name)]
    if given:
        raise RequestError(f"--{given[0].replace('_', '-')} is about the Hub: give --repo-id OWNER/NAME too")
    return False


def _publish_finished(arguments: argparse.Namespace, run: Path) -> int:
    """Upload a finished run.

    Args:
        arguments: The command line.
        run: The run's output folder.
    """
    from ..hub.publish import publish_run

    publication = publish_run(run, _options(arguments, run), dry_run=arguments.dry_run)
    if publication is not None:
        print(printable(f"published: {publication.url}"))
    return 0


def _check_run_arguments(arguments: argparse.Namespace) -> None:
    """A finished run has its recipe in it.

    Raises:
        RequestError: Arguments that belong to a recipe.
    """
    if arguments.overrides:
        raise RequestError(
            f"{arguments.overrides[0]} changes a recipe, and {arguments.recipe} is a finished run: name the recipe"
        )
    for name in ("output_dir", "workers"):
        if getattr(arguments, name) is not None:
            raise RequestError(f"--{name.replace('_', '-')} belongs to recipes, and {arguments.recipe} is a folder")


def _options(arguments: argparse.Namespace, run: Path) -> HubOptions:
    """The command line's options; for the rest, the ``publish`` section of the run's recipe."""
    from ..hub.options import HubOptions

    section = _publish_section(run)
    repo_id = arguments.repo_id or section.get("repo_id")
    if repo_id is None:
        raise RequestError(f"--repo-id is missing: give the OWNER/NAME to publish {run} as")
    return HubOptions(
        repo_id=repo_id,
        private=not arguments.public and section.get("private", True),
        gated=arguments.gated or section.get("gated"),
        branches=arguments.branches or section.get("branches", False),
        tag=arguments.tag or section.get("tag", "v1"),
        collection=not arguments.no_collection and section.get("collection", True),
        allow_not_passed=arguments.allow_not_passed or section.get("allow_not_passed", False),
        private_key=arguments.private_key,
        sigstore=arguments.sigstore,
    )


def _publish_section(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "run.json").read_text(encoding="utf-8"))["recipe"]["publish"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # whether this is a run at all is checked where it is read


COMMANDS = (
    Command(
        "publish",
        f"one stage: {stage_named('publish').help}; with --repo-id, upload a finished RUN to the Hub",
        _add_arguments,
        _publish,
        ("RECIPE [section.key=value ...] [options]", "RUN --repo-id OWNER/NAME [options]"),
    ),
)
