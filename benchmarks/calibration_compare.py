"""Does it matter whether GPTQ and AWQ see the facts to forget? The quickstart's models at a smaller size, both texts.

    python benchmarks/calibration_compare.py --output-dir /tmp/calibration
    python benchmarks/calibration_compare.py --output-dir /tmp/calibration --forget 400 --steps 500   # quickstart size

Plain NPO+KL and the bin-hidden control (whose facts a 4-bit grid gives back) are put into every format, calibrated on
ordinary text and on half forget rows. Prints a Markdown table with the answer probability on forget and retain facts
and the recovered share. A run that is started again goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_unlearn.recipe import builtin_recipes, load_recipe
from hf_unlearn.runtime.strict_yaml import read_yaml

CALIBRATED = ("gptq-int4-g128", "gptq-int4-g32", "gptq-int3-g128", "awq-int4-g128")
OTHERS = ("bnb-nf4", "rtn-int4-g128", "rtn-int4-g32", "rtn-int3-g128")
METRIC = "probability"


def compare_recipe(forget: int, steps: int) -> dict[str, Any]:
    """The quickstart with one method, one control, and formats of both calibrations."""
    recipe: dict[str, Any] = copy.deepcopy(read_yaml(builtin_recipes()["quickstart"]).plain())
    recipe |= {"name": "calibration-compare", "summary": "generic and forget-aware calibration", "attack": {}}
    recipe["data"]["planted"] |= {"forget": forget, "retain": min(forget, 240), "option_draws": 1}
    recipe["methods"] = [method for method in recipe["methods"] if method["name"] == "npo-kl"]
    hidden = next(control for control in recipe["controls"] if control["kind"] == "bin_hidden")
    hidden["settings"]["max_steps"] = steps
    # At this size it hides less well than at the quickstart's: what it shows is read from the table, not judged.
    recipe["controls"] = [
        {
            key: value
            for key, value in hidden.items()
            if key not in ("max_forget_score", "min_retain_score", "caught_by")
        }
    ]
    kinds = [f"{name}@{kind}" for name in CALIBRATED for kind in ("generic", "forget-aware")]
    recipe["export"] = {"formats": [*OTHERS, *kinds]}
    return recipe


def table(report: Mapping[str, Any]) -> str:
    """Markdown rows: a format, then forget and retain answer probability and recovered share of each model."""
    scores = {
        (row["model"], row["transform"], row["split"]): row["value"]
        for row in report["scores"]
        if row["metric"] == METRIC
    }
    shares = {
        (row["model"], row["transform"]): (row["recovered_share"], row["ci95"])
        for row in report["recovered"]
        if row["metric"] == METRIC
    }
    models = [name for name in ("npo-kl", "bin-hidden") if (name, "identity", "forget") in scores]
    transforms = list(dict.fromkeys(transform for model, transform, _ in scores if model == models[0]))
    heads = ["format", *(f"{model}: {what}" for model in models for what in ("forget", "retain", "recovered share"))]
    lines = [heads, ["---"] * len(heads)]
    for transform in sorted(transforms, key=lambda name: (name != "identity", name)):
        cells = [f"`{transform}`"]
        for model in models:
            cells += [f"{scores[model, transform, split]:.3f}" for split in ("forget", "retain")]
            share, (low, high) = shares[model, transform]
            cells.append(f"{share:.3f} ({low:.3f} to {high:.3f})")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--forget", type=int, default=120, help="facts to forget (the quickstart has 400)")
    parser.add_argument("--steps", type=int, default=300, help="steps of the bin-hidden control")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    from hf_unlearn.pipeline import run_pipeline

    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.output_dir / "recipe.yaml"
    path.write_text(yaml.safe_dump(compare_recipe(arguments.forget, arguments.steps), sort_keys=False))
    result = run_pipeline(load_recipe(path), arguments.output_dir / "run", workers=arguments.workers)
    assert result.verified is not None
    print(table(json.loads(json.dumps(result.verified.report))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
