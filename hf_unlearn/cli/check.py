"""The commands about a published model: ``check`` and ``sign``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import RequestError, printable
from .command import Command


def _add_check_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="REPO_OR_FOLDER")
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    text = "public key (PEM) of a publisher you trust; can be repeated, one of them must have signed the report"
    command.add_argument("--trusted-key", metavar="PUB", type=Path, action="append", default=[], help=text)
    text = "the same for a Sigstore identity, such as  me@example.org https://accounts.google.com"
    command.add_argument(
        "--trusted-identity", nargs=2, metavar=("IDENTITY", "ISSUER"), action="append", default=[], help=text
    )
    text = "fail unless a given trusted key or identity has signed"
    command.add_argument("--require-signature", action="store_true", help=text)
    command.add_argument(
        "--report-digest",
        metavar="SHA256",
        help="accept only the report with this digest (its first 8 digits or more)",
    )
    text = "reuse digests of files in the download cache that have not changed since they were last hashed"
    command.add_argument("--reuse-digests", action="store_true", help=text)
    text = "check only that every byte is what was verified, whatever the verdict"
    command.add_argument("--integrity-only", action="store_true", help=text)


def _check(arguments: argparse.Namespace) -> int:
    from ..hub.signatures import SigstoreIdentity
    from ..hub.verified import check
    from ..reporting.results import Results
    from ..reporting.sentences import first_reasons, verdict_reasons

    trusted = [*arguments.trusted_key, *(SigstoreIdentity(*pair) for pair in arguments.trusted_identity)]
    if arguments.require_signature and not trusted:
        raise RequestError(
            "--require-signature: anybody can sign, so say whose signature you want with --trusted-key PUB"
        )
    result = check(
        arguments.model, arguments.revision, trusted, arguments.report_digest, reuse_digests=arguments.reuse_digests
    )
    model = printable(arguments.model)
    for problem in result.problems:
        print(f"hf-unlearn: {printable(problem)}", file=sys.stderr)
    if result.commit is not None:
        print(f"commit {result.commit}" + (" (from the download cache; the Hub was not contacted)" * result.offline))
    if not result.intact or result.report is None:
        print(f"{model}: NOT what was verified", file=sys.stderr)
        return 1
    verdict = result.report["verdict"]
    print(f"{model}: every byte is what was verified; verdict: {verdict['status']}")
    if not arguments.integrity_only:
        for reason in first_reasons(verdict_reasons(Results(result.report))):
            print(f"  - {printable(reason)}")
    told = {
        "none": "not signed: the maker of this folder may have written the report too",
        "unknown": "signed, but the signer was not checked: give a --trusted-key",
        "trusted": f"signed by {result.signature.by}",
    }
    print(printable(f"report {result.report_digest}, {told[result.signature.status]}"))
    return 0 if arguments.integrity_only or verdict["status"] == "passed" else 1


def _add_sign_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", metavar="FOLDER", nargs="+", type=Path)
    how = command.add_mutually_exclusive_group(required=True)
    text = "private key on the curve P-256, P-384 or P-521 (PEM); its password from HF_UNLEARN_KEY_PASSWORD"
    how.add_argument("--private-key", metavar="KEY", type=Path, help=text)
    text = "sign as the CI job this runs in, or with a browser login (needs the network)"
    how.add_argument("--sigstore", action="store_true", help=text)


def _sign(arguments: argparse.Namespace) -> int:
    from ..hub.check import sign_folder
    from ..hub.signatures import SigstoreLogin

    key = SigstoreLogin() if arguments.sigstore else arguments.private_key
    for folder in arguments.folders:
        print(printable(f"signed: {sign_folder(folder, key)}"))
    return 0


COMMANDS = (
    Command("check", "re-check digests, signature and verdict of a published model", _add_check_arguments, _check),
    Command("sign", "sign the report of published folders", _add_sign_arguments, _sign),
)
