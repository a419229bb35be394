"""The first numbers of a run: every model once, as is and by format, forget before retain."""

from __future__ import annotations

import io

from rich.console import Console

from hf_unlearn.reporting.first_scores import FirstScores, print_first_scores


def test_a_row_for_each_model_and_a_dash_for_what_was_not_measured():
    out = io.StringIO()
    models = [
        FirstScores("target", {("identity", "forget"): 0.94, ("identity", "retain"): 0.93}),
        FirstScores("npo[bold]", {("identity", "forget"): 0.011, ("bnb-nf4", "forget"): 0.6}),
    ]
    print_first_scores(models, ["identity", "bnb-nf4"], "probability", Console(file=out, width=100))
    text = out.getvalue()
    assert "So far: forget / retain answer probability, before attacks and verdict" in text
    rows = {line.split()[0]: line for line in text.splitlines() if "/" in line and "So far" not in line}
    assert "0.94 / 0.93" in rows["target"] and "– / –" in rows["target"]
    assert "0.01 / –" in rows["npo[bold]"] and "0.60 / –" in rows["npo[bold]"]
