"""What attacks without training find in the models of a finished planted-facts run, as a table.

``python benchmarks/prompts_and_probes.py --recipe quickstart target=FOLDER never_knew=FOLDER npo-kl=FOLDER ...``
attacks every folder with the default settings and prints Markdown (``--write``: into ``prompts_and_probes.md``): the
score before, the score at the attacker's best setting, and for all but the first two the recovered share. Only the
first facts of the forget set are asked for (``--facts``), with one question for each sentence. No interval is made:
this compares attacks and is no verdict.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pages import command_line, made_by, table, write_sections

from hf_unlearn.attacks import ATTACKS
from hf_unlearn.attacks.base import Attack, Attacked, AttackResult
from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle, RowSet
from hf_unlearn.data.planted import make_planted
from hf_unlearn.recipe import load_recipe

PAGE = Path(__file__).with_suffix(".md")
ABOUT = (
    "Default settings, the first {facts} facts of the recipe `{recipe}`. Score before → at the attacker's best "
    "setting (recovered share, no interval); `control` is the probe on holdout facts. Seconds are for all models "
    "together. One seed."
)
NAMES = ("few-shot", "prefix", "paraphrase", "leak-at-k", "logit-lens", "linear-probe", "ablate-direction")
METRICS = ("probability", "extraction_strength", "mc_accuracy")
_GENERATED = ("exact_match", "rouge_l")


def planted_bundle(recipe: str, facts: int) -> DataBundle:
    """The recipe's planted facts, the first ``facts`` of the forget set asked for."""
    spec = load_recipe(recipe).data.planted
    if spec is None:
        raise SystemExit(f"{recipe} has no planted facts")
    bundle = make_planted(replace(spec, option_draws=1))
    asked = dict.fromkeys(row.fact for row in bundle.forget.score)
    wanted = set(list(asked)[:facts])
    train, score = (
        tuple(row for row in rows if row.fact in wanted) for rows in (bundle.forget.train, bundle.forget.score)
    )
    return replace(bundle, forget=RowSet(train, score))


def run(attack: Attack, folder: Path, target: Path, bundle: DataBundle) -> AttackResult:
    """All jobs of an attack on one model."""
    attacked = Attacked(folder, target, bundle, TextFormat(), METRICS)
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for job in attack.plan(bundle):
            folders[job] = Path(place) / job
            folders[job].mkdir()
            attack.run_job(job, attacked, folders[job])
        return attack.collect(folders, METRICS)


def rows_of(name: str, models: dict[str, Path], bundle: DataBundle) -> list[list[str]]:
    """Lines of one attack: a metric each. The first two models are the target and the never-knew model."""
    target, never, *rest = models
    attack = ATTACKS.get(name).value()
    start = time.perf_counter()
    found = {model: run(attack, folder, models[target], bundle) for model, folder in models.items()}
    seconds, rows = f"{time.perf_counter() - start:.0f}", []
    for metric in (*METRICS, *_GENERATED):
        details = {
            model: entry for model, result in found.items() for entry in result.details if entry["metric"] == metric
        }
        if len(details) < len(models):
            continue
        cells = []
        for model, entry in details.items():
            cell = f"{entry['before']:.2f} → {entry['after']:.2f}"
            spread = details[target]["after"] - details[never]["after"]
            if model in rest and spread > 0:
                cell += f" ({(entry['after'] - details[never]['after']) / spread:.2f})"
            if "control_accuracy" in entry:
                cell += f", control {entry['control_accuracy']:.2f}"
            cells.append(cell)
        rows.append([f"`{name}`", f"`{metric}`", *cells, "" if rows else seconds])
    return rows


def main() -> None:
    """Attack, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="name=folder; the target first, then the never-knew model")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--facts", type=int, default=120)
    parser.add_argument("--attacks", nargs="*", default=NAMES)
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name}")
    arguments = parser.parse_args()
    made = made_by(command_line(__file__))
    models = {name: Path(folder) for name, folder in (item.split("=", 1) for item in arguments.models)}
    bundle = planted_bundle(arguments.recipe, arguments.facts)
    rows = []
    for name in arguments.attacks:
        rows += rows_of(name, models, bundle)
        print(f"{name} is done", flush=True)
    about = ABOUT.format(facts=arguments.facts, recipe=Path(arguments.recipe).name)
    text = f"{made}\n\n{about}\n\n{table(['attack', 'metric', *models, 'seconds'], rows)}"
    print(text)
    if arguments.write:
        write_sections(PAGE, "What attacks without training find", {"attacks": text})


if __name__ == "__main__":
    main()
