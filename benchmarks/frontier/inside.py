"""Where in the model a fact still stands: logit lens and linear probe layer by layer, as one plot.

    python -m benchmarks.frontier.inside years 0 --methods npo-kl auto-unrehearsed auto --write

Reads the models of a cell that was run, by the package's own attacks: multiple choice on the forget set, read after
every layer with the model's output head (lens) and with a linear map fitted on retain rows (probe).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.frontier.arguments import cell_of, cell_parser
from benchmarks.frontier.methods import PLAIN
from benchmarks.pages import made_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_unlearn.stages.context import Subject
    from hf_unlearn.stages.run import Run

HERE = Path(__file__).parent
READINGS = ("logit-lens", "linear-probe")
METRIC = "mc_accuracy"

Layers = dict[int, float]
"""Share of multiple-choice questions answered rightly, by layer."""


def read_layers(run: Run, subject: Subject, reading: str) -> Layers:
    """What one reading finds in one model after each layer.

    Args:
        run: The cell's run.
        subject: The model that is read.
        reading: Name of the attack.
    """
    from hf_unlearn.attacks import ATTACKS
    from hf_unlearn.attacks.base import Attacked
    from hf_unlearn.evaluation.records import read_records

    attack = ATTACKS.get(reading).value()
    attacked = Attacked(subject.folder, run.target.folder, run.bundle, run.context.text_format, (METRIC,))
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        for job in attack.plan(run.bundle):
            attack.run_job(job, attacked, out)
        files = {int(path.stem.removeprefix("layer")): path for path in out.glob("layer*.jsonl")}
        # Layer 0 of a probe is what the model itself chooses.
        return {
            layer: fmean(record.values[METRIC] for record in read_records(path))
            for layer, path in sorted(files.items())
            if layer
        }


def layers_figure(found: Mapping[str, Mapping[str, Layers]]) -> Figure:
    """A panel for each reading, a line for each model.

    Args:
        found: Reading to model to layers.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for panel, (reading, models) in zip(panels, found.items(), strict=True):
        for number, (name, layers) in enumerate(models.items()):
            style = "--" if name == "never_knew" else "-"
            label = name.replace("_", "-")
            panel.plot(list(layers), list(layers.values()), style, marker="osD^vP*"[number % 7], ms=5, label=label)
        panel.set_title(reading, fontsize=10)
        panel.set_xlabel("layer")
        panel.set_xticks(list(next(iter(models.values()))))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("right option of four, forget set")
    panels[0].set_ylim(0, 1.03)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Read, print and perhaps draw."""
    parser = cell_parser(__doc__, [PLAIN, "auto"])
    parser.add_argument("--write", action="store_true", help="write inside.png and inside.json")
    arguments = parser.parse_args()
    with cell_of(arguments).through("train") as run:
        shown = [one for one in run.subjects if one.name in ("target", "never_knew", *arguments.methods)]
        found = {reading: {one.name: read_layers(run, one, reading) for one in shown} for reading in READINGS}
    print(json.dumps(found, indent=1))
    if arguments.write:
        made = made_by(f"python -m benchmarks.frontier.inside {arguments.kind} {arguments.seed} --write", timed=False)
        content = {"made": made, "readings": found}
        (HERE / "inside.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        layers_figure(found).savefig(HERE / "inside.png", dpi=160)


if __name__ == "__main__":
    main()
