"""A finished run to the Hub: variants first, the main model last, and only then what readers see.

Every step checks what exists and does what is missing. So the same command, repeated after any failure, continues
where it stopped, and ends as an undisturbed one would.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import EnvironmentFailure, HfUnlearnError, RequestError
from ..runtime.files import write_atomically
from ..runtime.locks import locked
from ..runtime.processes import is_main_process
from ..runtime.secrets import redact
from ..verification.references import IDENTITY
from .client import HubClient, check_permissions, nothing_leaks
from .folders import (
    STAGING,
    Release,
    Staged,
    edited_card_words,
    read_release,
    refuse_not_passed,
    refuse_unfinished,
    stage,
)
from .options import MAIN, HubOptions
from .upload import Begun, RepoState, Uploaded, begin, check_place, check_tag, finish, make_repo, read_state, set_tag

PUBLISHED_FILE = "published.json"
LOCK_FILE = ".publish.lock"
Say = Callable[[str], None]
T = TypeVar("T")
R = TypeVar("R")
_AT_A_TIME = 4
# The Hub's limits for a collection, in characters.
_TITLE, _DESCRIPTION, _NOTE = 59, 150, 500


@dataclass(frozen=True)
class Publication:
    """What is on the Hub now.

    Attributes:
        uploaded: The folders and their commits, the main one last.
        collection: Slug of the collection, if there is one.
        url: Address of the main repository.
    """

    uploaded: tuple[Uploaded, ...]
    collection: str | None
    url: str


@dataclass(frozen=True)
class Tied:
    """The collection that ties a model and its variants together.

    Attributes:
        slug: Its address.
        private: Whether only its owner sees it.
    """

    slug: str
    private: bool


def publish_run(
    run: Path, options: HubOptions, *, say: Say = print, dry_run: bool = False, token: str | None = None
) -> Publication | None:
    """Publish a finished run.

    One process does it: under a launcher the main process, and if several act as the main one, they run one
    after the other; the later ones find nothing left to do.

    Args:
        run: The run's output folder.
        options: Where to, and how.
        say: Gets a line about each step.
        dry_run: Only write the folders that would be uploaded; the Hub is not contacted.
        token: The token; by default from where ``huggingface_hub`` keeps it.

    Returns:
        What is on the Hub now; ``None`` from a dry run, or in a process that leaves the work to another.

    Raises:
        VerificationError: The verdict is not *passed*, and that was not allowed.
        RequestError: The run, the options or the token are not valid; nothing was uploaded.
        EnvironmentFailure: The Hub failed or refused; the same call continues from there.
    """
    if not is_main_process():
        return None
    # Before the lock, which is a file: one more file in a model's folder is another model.
    refuse_unfinished(run)
    with _alone(run, say):
        release = read_release(run)
        if not options.allow_not_passed:
            refuse_not_passed(release.report)
        if dry_run:
            for each in _staged(release, options, say):
                say(f"would publish {each.folder} ({len(each.files)} files) as {_where(each)}")
            return None
        client = HubClient(token)
        with nothing_leaks(client.token), _plain_output():
            try:
                check_permissions(client, options.repo_id)
                return _publish(client, release, _staged(release, options, say), options, say)
            except HfUnlearnError as error:
                # Messages are made without the token; this is for messages that quote others.
                error.args = tuple(redact(str(part), client.token) for part in error.args)
                raise


def _staged(release: Release, options: HubOptions, say: Say) -> list[Staged]:
    staged = stage(release, options)
    for each in staged:
        if each.card_edited:
            say(edited_card_words(each.folder))
    return staged


def _publish(
    client: HubClient, release: Release, staged: Sequence[Staged], options: HubOptions, say: Say
) -> Publication:
    repos = list(dict.fromkeys(each.repo_id for each in staged))
    states = dict(zip(repos, side_by_side(lambda repo_id: read_state(client, repo_id), repos), strict=True))
    side_by_side(lambda each: _check(client, each, states[each.repo_id], options), staged)

    def start(each: Staged) -> Begun:
        there = states[each.repo_id] or make_repo(client, each.repo_id)
        states[each.repo_id] = there
        return begin(client, each, there)

    def end(begun: Begun) -> Uploaded:
        each = begun.staged
        done = finish(client, begun, _message(release, each))
        if options.tag is not None:
            set_tag(client, done, _tag(each, options.tag))
        say(f"{'published' if done.made else 'already there'}: {_where(each)}, commit {done.commit}")
        if begun.replaces_card:
            say(f"the card of {_where(each)} was written anew; the one before is README.md of commit {begun.head}")
        return done

    if options.branches:
        # Commits to one repository wait for each other on the Hub.
        uploaded = [end(start(each)) for each in staged]
    else:
        # The main model's weights are uploaded along with the variants'; its commit, before which nobody sees them,
        # waits.
        def end_unless_main(each: Staged) -> Uploaded | Begun:
            begun = start(each)
            return begun if each.transform == IDENTITY else end(begun)

        made = side_by_side(end_unless_main, staged)
        uploaded = [each for each in made if isinstance(each, Uploaded)]
        uploaded += [end(each) for each in made if isinstance(each, Begun)]
    tied = _collect(client, release, staged, options) if options.collection and len(states) > 1 else None
    _open(client, states, options)
    if tied is not None and tied.private and not options.private:
        _open_collection(client, tied.slug)
    slug = None if tied is None else tied.slug
    if slug is not None:
        say(f"collection: {client.endpoint}/collections/{slug}")
    _record(release.run, client, uploaded, slug, options)
    return Publication(tuple(uploaded), slug, f"{client.endpoint}/{options.repo_id}")


def _check(client: HubClient, each: Staged, state: RepoState | None, options: HubOptions) -> None:
    """Everything that would be refused, before anything is written."""
    _check_visibility(each.repo_id, state, options)
    check_place(client, each, state)
    if options.tag is not None:
        check_tag(client, each, state, _tag(each, options.tag))


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function for several items at a time; results in their order.

    Calls in progress are finished before the first error, in their order, is raised.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(_AT_A_TIME, len(items))) as threads:
        return [future.result() for future in [threads.submit(function, item) for item in items]]


def _check_visibility(repo_id: str, state: RepoState | None, options: HubOptions) -> None:
    """Nothing becomes public unless requested, not even by publishing to a public repository.

    Raises:
        RequestError: The repository is public.
    """
    if state is not None and not state.private and options.private:
        raise RequestError(f"{repo_id} is public: use --public to publish to it, or make it private first")


def _open(client: HubClient, states: dict[str, RepoState | None], options: HubOptions) -> None:
    """Gates and visibility, the main repository last: until then nobody else has seen anything."""
    for repo_id in sorted(states, key=lambda repo_id: repo_id == options.repo_id):
        state = states[repo_id]
        wanted: dict[str, Any] = {}
        if options.gated is not None and (state is None or state.gated != options.gated):
            wanted["gated"] = options.gated
        if not options.private and (state is None or state.private):
            wanted["private"] = False
        if wanted:
            doing = f"change who may read {repo_id}"
            client.call(doing, client.api.update_repo_settings, repo_id, **wanted)


def _collect(client: HubClient, release: Release, staged: Sequence[Staged], options: HubOptions) -> Tied:
    ordered = sorted(staged, key=lambda each: each.transform != IDENTITY)
    status = release.report["verdict"]["status"]
    notes = {
        each.repo_id: f"verdict {status}" if each.transform == IDENTITY else f"{each.transform}, verdict {status}"
        for each in ordered
    }
    title = f"{options.repo_id.split('/')[1]} (unlearned)"
    return _tie_together(client, options.owner, title, f"{release.words.title}, and its variants", notes)


def _tie_together(client: HubClient, owner: str, title: str, description: str, items: Mapping[str, str]) -> Tied:
    """Make the collection, or find it, and add what is missing.

    A new one is private until :func:`_open_collection`.

    Args:
        client: The connection.
        owner: User or organization.
        title: Its title; cut to the Hub's limit.
        description: Its description; cut likewise.
        items: Repository to a note on it, in the order of the collection.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    api, doing, title = client.api, f"make the collection of {owner}", _cut(title, _TITLE)

    def find() -> str | None:
        return next((each.slug for each in api.list_collections(owner=owner) if each.title == title), None)

    slug = client.call(doing, find, again=False)
    if slug is not None:
        # A list shows only the first items of each.
        found = client.call(doing, api.get_collection, slug)
    else:
        about = _cut(description, _DESCRIPTION)
        found = client.call(
            doing, api.create_collection, title, namespace=owner, description=about, private=True, exists_ok=True
        )
    there = {item.item_id for item in found.items}
    for repo_id, note in items.items():
        if repo_id not in there:
            doing = f"add {repo_id} to the collection"
            add = api.add_collection_item
            client.call(doing, add, found.slug, repo_id, "model", note=_cut(note, _NOTE), exists_ok=True)
    return Tied(found.slug, found.private)


def _open_collection(client: HubClient, slug: str) -> None:
    """Make a collection public.

    Raises:
        EnvironmentFailure: The Hub failed or refused.
    """
    client.call("make the collection public", client.api.update_collection_metadata, slug, private=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _message(release: Release, each: Staged) -> str:
    what = "the unlearned model" if each.transform == IDENTITY else f"its {each.transform} variant"
    return f"Publish {what}, verdict {release.report['verdict']['status']}"


def _tag(each: Staged, tag: str) -> str:
    return tag if each.branch == MAIN else f"{tag}-{each.branch}"


def _where(each: Staged) -> str:
    return each.repo_id if each.branch == MAIN else f"{each.repo_id} (branch {each.branch})"


def _record(run: Path, client: HubClient, uploaded: Sequence[Uploaded], slug: str | None, options: HubOptions) -> None:
    """Write down which commits hold the release."""
    record = {
        "endpoint": client.endpoint,
        "collection": slug,
        "repositories": [
            {
                "format": done.staged.transform,
                "repo_id": done.staged.repo_id,
                "branch": done.staged.branch,
                "commit": done.commit,
                "tag": None if options.tag is None else _tag(done.staged, options.tag),
            }
            for done in uploaded
        ],
    }
    try:
        write_atomically(run / STAGING / PUBLISHED_FILE, json.dumps(record, indent=1))
    except OSError as error:
        raise EnvironmentFailure(
            f"all is published, but {run / STAGING / PUBLISHED_FILE} cannot be written ({error.strerror})"
        ) from error


@contextmanager
def _plain_output() -> Iterator[None]:
    """No progress bars in a log, and on a terminal no message after an unfinished bar."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = sys.stderr.isatty()
    hidden = not bars and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    except BaseException:
        if bars:
            print(file=sys.stderr)
        raise
    finally:
        if hidden:
            enable_progress_bars()


@contextmanager
def _alone(run: Path, say: Say) -> Iterator[None]:
    """Lock the run against a second publication; wait for one in progress.

    The system releases the lock if this process is killed.
    """

    def tell() -> None:
        say(f"another process is publishing {run}: waiting for it")

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run / LOCK_FILE, before_waiting=tell))
        except OSError as error:
            raise EnvironmentFailure(
                f"{run / LOCK_FILE} cannot be written ({error.strerror}): check its permissions"
            ) from error
        yield
