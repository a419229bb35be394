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


def test_no_name_is_broken_on_a_narrow_terminal():
    """Formats that do not fit beside each other stand below each other."""
    formats = ["identity", "bnb-nf4", "bnb-int8", "gptq-int4-g128", "awq-int4-g128", "gguf-q4_k_m"]
    formats += ["torchao-int8-dynamic"]
    means = {(one, "forget"): 0.5 for one in formats}
    models = [FirstScores(name, means) for name in ("target", "never_knew", "auto-r")]
    for width, tables in ((80, 2), (200, 1)):
        out = io.StringIO()
        print_first_scores(models, formats, "probability", Console(file=out, width=width))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        heads = [line.split()[1:] for line in lines if line.split()[:1] == ["model"]]
        assert len(heads) == tables
        words = [word for head in heads for word in head]
        assert " ".join(words).replace("as is", "identity").split() == formats
        assert sum(line.split()[:1] == ["never_knew"] and "0.50 / –" in line for line in lines) == tables
