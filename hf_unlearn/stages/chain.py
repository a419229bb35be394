"""Whether models and records are still what earlier stages made and later ones read.

A unit's manifest has the digests of its files from when it was finished, and what is made from them is bound to those
digests. Here they are compared with the files as they stand: before models are read, and before anything is judged or
published.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from .context import RunContext, Subject
from .plans import METRICS_FILE
from .units import file_digests, fingerprint, first_difference, read_manifest


def check_subjects(subjects: Sequence[Subject]) -> None:
    """Compare the folders of models with the digests that they have in this run.

    Raises:
        RequestError: A file was changed, removed or added since the model was made or first read.
    """
    checked = set()
    for subject in subjects:
        if (subject.folder, subject.digest) not in checked:
            _check_subject(subject)
            checked.add((subject.folder, subject.digest))


def check_variants(context: RunContext, subjects: Sequence[Subject]) -> None:
    """Compare the exported folders of models with their manifests.

    Raises:
        RequestError: One is not there, or a file was changed, removed or added since it was made.
    """
    for subject in subjects:
        for name in context.formats:
            context.export_unit(subject, name).checked()


def _check_subject(subject: Subject) -> None:
    now = file_digests(subject.folder)
    manifest = read_manifest(subject.folder)
    made = manifest["outputs"] if manifest is not None else None
    if made is not None and digest_of(made) == subject.digest:  # it was made in this run
        changed = first_difference(made, now)
        if changed is not None:
            raise RequestError(
                f"{subject.folder / changed[0]} {changed[1]} since the model was made: remove the folder "
                f"{subject.folder} and run the same command again"
            )
    elif fingerprint(now) != subject.digest:
        raise RequestError(
            f"a file of the model {subject.name} in {subject.folder} was changed, removed or added while the run was "
            "at work: run the same command again"
        )


def digest_of(outputs: dict[str, str]) -> str:
    """Fingerprint of a trained model's files, its training log left out (it holds times)."""
    return fingerprint({name: digest for name, digest in outputs.items() if name != METRICS_FILE})
