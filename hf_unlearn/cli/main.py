"""The command line: ``hf-unlearn`` or ``python -m hf_unlearn``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import HfUnlearnError, RequestError
from ..runtime.log_filters import drop_harmless_lines
from .attack import add_attack_arguments, attack_model, wants_model
from .evaluate import add_compare_arguments, add_evaluate_arguments, check_without_suite, compare, evaluate_with_suite
from .publish import add_publish_arguments, check_run_arguments, publish_finished, wants_hub

STAGE_HELP = {
    "train": "unlearn with every method of a recipe",
    "export": "make the quantized variants",
    "evaluate": "score every model in every format; with --suite, one MODEL",
    "attack": "run the attacks; with --attack or --tier, on one MODEL",
    "verify": "judge, write the report",
    "publish": "write the published folders; with --repo-id, upload a finished RUN to the Hub",
}
LISTS = ("losses", "alternates", "robust", "formats", "attacks", "metrics", "recipes", "suites")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done and passed. 1: done, the verdict (or check) is not passed. 2: the request is wrong.
    3: the environment failed.
    """
    try:
        arguments = _parse(argv)
        _quiet_libraries()
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except HfUnlearnError as error:
        print(f"hf-unlearn: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        print("hf-unlearn: out of memory: use fewer --workers, smaller batches or a bigger machine", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("hf-unlearn: stopped; the same command goes on where this one was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As with `| head`. Python would complain once more when it closes the pipe at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("hf-unlearn: nobody reads the output any more; the same command goes on from here", file=sys.stderr)
        return 3


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before, between and behind the options, which argparse cannot do below sub-commands."""
    parser = _parser()
    arguments, further = parser.parse_known_args(argv)
    takes_overrides = isinstance(getattr(arguments, "overrides", None), list)
    strange = [word for word in further if not takes_overrides or word.startswith("-")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if further:
        arguments.overrides = [*arguments.overrides, *further]
    return arguments


def _quiet_libraries() -> None:
    """Loading bars and notices of libraries would bury what the run has to say."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    drop_harmless_lines()


class _Parser(argparse.ArgumentParser):
    """Arguments that do not fit are a wrong request like any other: one line, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    about = "Make a language model forget, and prove it on the files you release."
    parser = _Parser(prog="hf-unlearn", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run every stage of a recipe, resuming what is finished")
    _add_recipe_arguments(run)
    run.set_defaults(run=_run)
    for stage, text in STAGE_HELP.items():
        command = commands.add_parser(stage, help=f"one stage: {text}")
        _add_recipe_arguments(command)
        command.set_defaults(run=_run, only=stage)
        if stage == "evaluate":
            add_evaluate_arguments(command)
            command.set_defaults(run=_evaluate)
        if stage == "attack":
            add_attack_arguments(command)
            command.set_defaults(run=_attack)
        if stage == "publish":
            add_publish_arguments(command)
            command.set_defaults(run=_publish)

    compared = commands.add_parser("compare", help="paired differences of two models evaluated with the same suite")
    add_compare_arguments(compared)
    compared.set_defaults(run=compare)

    text = "judge checkpoints that were unlearned elsewhere: no training, no publishing"
    command = commands.add_parser("audit", help=text)
    _add_recipe_arguments(command)
    command.set_defaults(run=_audit)

    text = "the built-in recipe on planted facts, no network, no GPU; exit code 0 if every control is judged correctly"
    quickstart = commands.add_parser("quickstart", help=text)
    _add_run_arguments(quickstart)
    quickstart.set_defaults(run=_quickstart)

    check = commands.add_parser("check", help="re-check digests, signature and verdict of a published model")
    check.add_argument("model", metavar="REPO_OR_FOLDER")
    check.add_argument("--revision", help="branch, tag or commit on the Hub")
    text = "public key (PEM) of a publisher you trust; can be repeated, one of them must have signed the report"
    check.add_argument("--trusted-key", metavar="PUB", type=Path, action="append", default=[], help=text)
    text = "the same for a Sigstore identity, such as  me@example.org https://accounts.google.com"
    check.add_argument(
        "--trusted-identity", nargs=2, metavar=("IDENTITY", "ISSUER"), action="append", default=[], help=text
    )
    text = "fail unless a trusted key or identity is named and has signed"
    check.add_argument("--require-signature", action="store_true", help=text)
    check.add_argument("--report-digest", metavar="SHA256", help="accept only the report with this digest")
    text = "reuse digests of files in the download cache that did not change since they were last hashed"
    check.add_argument("--reuse-digests", action="store_true", help=text)
    text = "check only that every byte is what was verified, whatever the verdict"
    check.add_argument("--integrity-only", action="store_true", help=text)
    check.set_defaults(run=_check)

    sign = commands.add_parser("sign", help="sign the report of published folders")
    sign.add_argument("folders", metavar="FOLDER", nargs="+", type=Path)
    how = sign.add_mutually_exclusive_group(required=True)
    text = "private key on the curve P-256, P-384 or P-521 (PEM); its password from HF_UNLEARN_KEY_PASSWORD"
    how.add_argument("--private-key", metavar="KEY", type=Path, help=text)
    text = "sign as the CI job this runs in, or with a browser login (needs the network)"
    how.add_argument("--sigstore", action="store_true", help=text)
    sign.set_defaults(run=_sign)

    listing = commands.add_parser("list", help="list losses, formats, attacks, metrics, recipes ...")
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("--json", action="store_true", help="print an array of objects")
    listing.set_defaults(run=_list)
    return parser


def _add_recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    _add_run_arguments(command)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="change values of the recipe"
    )
    command.set_defaults(only=None)


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output-dir", type=Path, help="folder of the run (default: runs/NAME)")
    command.add_argument("--workers", type=int, help="number of worker processes (default: automatic; 0: none)")


def _run(arguments: argparse.Namespace) -> int:
    from ..pipeline import run_pipeline
    from ..recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    result = run_pipeline(recipe, output_dir, only=arguments.only, workers=_workers(arguments))
    return 0 if result.verified is None or result.passed else 1


def _publish(arguments: argparse.Namespace) -> int:
    if not wants_hub(arguments):
        return _run(arguments)
    run = Path(arguments.recipe)
    if run.is_dir():
        check_run_arguments(arguments)
        return publish_finished(arguments, run)
    from ..recipe import load_recipe

    run = arguments.output_dir or Path("runs") / load_recipe(arguments.recipe, arguments.overrides).name
    _run(arguments)
    return publish_finished(arguments, run)


def _audit(arguments: argparse.Namespace) -> int:
    from ..pipeline import audit

    result = audit(arguments.recipe, arguments.output_dir, arguments.overrides, _workers(arguments))
    return 0 if result.passed else 1


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.suite is not None:
        return evaluate_with_suite(arguments)
    check_without_suite(arguments)
    return _run(arguments)


def _attack(arguments: argparse.Namespace) -> int:
    if wants_model(arguments):
        return attack_model(arguments, _workers(arguments))
    return _run(arguments)


def _quickstart(arguments: argparse.Namespace) -> int:
    from ..pipeline import run_pipeline
    from ..recipe import load_recipe

    recipe = load_recipe("quickstart")
    output_dir = arguments.output_dir or Path("runs") / recipe.name
    result = run_pipeline(recipe, output_dir, workers=_workers(arguments))
    return 0 if result.controls_ok else 1


def _workers(arguments: argparse.Namespace) -> int | None:
    workers: int | None = arguments.workers
    if workers is not None and workers < 0:
        raise RequestError(f"--workers is {workers}: use 0 for none, or a number of processes")
    return workers


def _check(arguments: argparse.Namespace) -> int:
    from ..hub.signatures import SigstoreIdentity
    from ..hub.verified import check

    trusted = [*arguments.trusted_key, *(SigstoreIdentity(*pair) for pair in arguments.trusted_identity)]
    if arguments.require_signature and not trusted:
        raise RequestError(
            "--require-signature: anybody can sign, so say whose signature you want with --trusted-key PUB"
        )
    result = check(
        arguments.model, arguments.revision, trusted, arguments.report_digest, reuse_digests=arguments.reuse_digests
    )
    for problem in result.problems:
        print(f"hf-unlearn: {problem}", file=sys.stderr)
    if result.commit is not None:
        print(f"commit {result.commit}" + (" (from the download cache, the Hub was not asked)" * result.offline))
    if not result.intact or result.report is None:
        print(f"{arguments.model}: NOT what was verified", file=sys.stderr)
        return 1
    verdict = result.report["verdict"]
    print(f"{arguments.model}: every byte is what was verified; verdict: {verdict['status']}")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    told = {
        "none": "not signed: whoever made this folder may have written the report too",
        "unknown": "signed, but by whom was not checked: name a --trusted-key",
        "trusted": f"signed by {result.signature.by}",
    }
    print(f"report {result.report_digest}, {told[result.signature.status]}")
    return 0 if arguments.integrity_only or verdict["status"] == "passed" else 1


def _sign(arguments: argparse.Namespace) -> int:
    from ..hub.signing import SigstoreLogin, sign_folder

    key = SigstoreLogin() if arguments.sigstore else arguments.private_key
    for folder in arguments.folders:
        print(f"signed: {sign_folder(folder, key)}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from .listing import entries_of, format_table

    entries = entries_of(arguments.what)
    print(json.dumps(entries, indent=1) if arguments.json else format_table(entries))
    return 0
