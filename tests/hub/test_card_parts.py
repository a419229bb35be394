"""What a card says beside the verdict: variants, formats, licences, emissions, benchmark scores; writing it again."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from loopback import Hub, run_client

from hf_unlearn.errors import RequestError
from hf_unlearn.hub.benchmarks import benchmark_files
from hf_unlearn.hub.card import render_card, rewrite_card
from hf_unlearn.hub.check import check_folder
from hf_unlearn.hub.files import SIGNATURE_FILE, may_be_published
from hf_unlearn.hub.from_trainer import UnverifiedCard, render_unverified_card
from hf_unlearn.hub.metadata import CardWords, card_metadata, card_problems, metadata_yaml
from hf_unlearn.reporting.results import Results
from hf_unlearn.verification.report import Report
from hf_unlearn.verification.report_file import load_report

WORDS = CardWords(title="Tiny", removed="birth years of people who do not exist", repo_id="owner/tiny")
NF4 = {
    "format": "bnb-nf4",
    "bits": 4,
    "group_size": 64,
    "library": "bitsandbytes",
    "version": "0.50.2",
    "bytes": 2_500_000,
    "quantized_share": 0.5,
    "calibration": {"text": "retain", "rows": 128, "sha256": "ab" * 32, "seed": None},
}
SCORE = {
    "dataset": "TIGER-Lab/MMLU-Pro",
    "task": "mmlu_pro",
    "model": "npo",
    "transform": "identity",
    "value": 0.312,
    "notes": "5-shot",
}


@pytest.mark.parametrize("transform", ["identity", "bnb-nf4"])
def test_metadata_are_written_as_the_client_library_writes_them(passed, transform: str) -> None:
    title = "Träger: 'x' - #1 \"years\" \U0001f44d " * 4
    words = replace(WORDS, title=title, license="mit", language=("en", "no"))
    data = card_metadata(Results(passed.report), transform, words)
    assert metadata_yaml(data.to_dict()) == data.to_yaml()


def test_variants_in_repositories_and_on_branches(passed) -> None:
    words = replace(WORDS, variant_repo_ids={"bnb-nf4": "owner/tiny-bnb-nf4"}, variant_revisions={"bnb-int8": "int8"})
    main = render_card(passed.report, "identity", words)
    assert "- `bnb-nf4`: [owner/tiny-bnb-nf4](https://huggingface.co/owner/tiny-bnb-nf4)\n" in main
    assert "- `bnb-int8`: [owner/tiny](https://huggingface.co/owner/tiny/tree/int8), branch `int8`\n" in main
    words = replace(WORDS, variant_revisions={"bnb-nf4": "nf4"})
    branch = render_card(passed.report, "bnb-nf4", words)
    assert 'VerifiedModel.from_pretrained("owner/tiny", revision="nf4")' in branch
    assert 'AutoTokenizer.from_pretrained("owner/tiny", revision="nf4")' in branch
    assert "hf-unlearn check owner/tiny --revision nf4" in branch
    assert "Variants, each" not in branch
    data = ModelCard(branch).data.to_dict()
    assert "base_model" not in data, "a model is no variant of itself"


def test_python_on_a_card_is_python(passed) -> None:
    words = replace(WORDS, variant_revisions={"bnb-nf4": "nf4"})
    for transform in ("identity", "bnb-nf4"):
        blocks = render_card(passed.report, transform, words).split("```python\n")[1:]
        assert len(blocks) == 2
        for block in blocks:
            compile(block.split("```")[0], "card", "exec")


def test_formats_and_what_they_were_fitted_on(passed) -> None:
    report = {**passed.report, "formats": {"bnb-nf4": NF4, "bf16": {"format": "bf16", "bits": 16}}}
    for section in (report["formats"], list(report["formats"].values())):
        main = render_card({**report, "formats": section}, "identity", WORDS)
        assert (
            "- `bnb-nf4`: 4 bits per quantized weight, a scale for each 64 of them; 50.0 % of the parameters are "
            "quantized; written by bitsandbytes 0.50.2; 2.5 MB of weights; calibrated on text of this kind: text "
            "retain, rows 128, sha256 `abababababababab…`.\n"
        ) in main
        assert "- `bf16`: 16 bits per quantized weight.\n" in main
    own = render_card(report, "bnb-nf4", WORDS)
    assert "- How this variant is stored: 4 bits" in own and "16 bits" not in own


def test_what_was_not_tested_stands_in_one_place_and_what_was_only_run_in_another(passed) -> None:
    """A format and an attack that were scored and are not judged are no part of what was not tested."""
    report = deepcopy(passed.report)
    report["not_tested"] = ["the formats all of rtn-…, bf16, and any other", "the attacks prune", "merging"]
    for name in ("rtn-int2-g32", "interpolate"):
        own = [row for row in report["recovered"] if (row["model"], row["transform"]) == ("npo", "bnb-nf4")]
        report["recovered"] += [
            {**row, "transform": name, "threshold": None, "joint95": None, "status": "reported"} for row in own
        ]
    report["models"]["unlearned"]["files"]["rtn-int2-g32"] = {"model.safetensors": "a" * 64}
    report["attacks"].append({"name": "interpolate", "model": "npo", "folds": 1, "budget": {"shares": 3}, "best": []})
    text = render_card(report, "identity", WORDS)
    section = text.split("## What was tested, and what was not")[1].split("## Limits")[0]
    assert "- Attack `rtt`: survived. It had" in section
    assert "- Attack `interpolate`: run, not judged. It had shares 3." in section
    assert "- Formats tested: `bnb-nf4`.\n- Formats run, not judged: `rtn-int2-g32`.\n" in section
    (line,) = [line for line in section.splitlines() if "ot tested" in line]
    assert line == f"- Not tested: {'; '.join(report['not_tested'])}."


def test_a_gguf_file_is_named_where_it_has_to_be(passed) -> None:
    files = {**passed.report["models"]["unlearned"]["files"], "gguf-q4_0": {"tiny-Q4_0.gguf": "a" * 64}}
    models = {**passed.report["models"], "unlearned": {**passed.report["models"]["unlearned"], "files": files}}
    text = render_card({**passed.report, "models": models}, "gguf-q4_0", WORDS)
    assert (
        'AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/FOLDER", config=config, gguf_file="tiny-Q4_0.gguf")'
        in text
    )
    assert 'config = AutoConfig.from_pretrained("PATH/TO/THIS/FOLDER")' in text


def test_base_model_licences_and_commit(passed) -> None:
    report = {**passed.report, "models": {**passed.report["models"]}}
    report["models"]["target"] = {**report["models"]["target"], "revision": "f" * 40}
    text = render_card(report, "identity", replace(WORDS, license="mit", base_license="llama3.2"))
    assert f"- Base model: [owner/base](https://huggingface.co/owner/base) at commit `{'f' * 40}`" in text
    assert "- Licence: `mit`; the base model's licence (`llama3.2`) binds this model too" in text
    report["models"]["target"]["hub_id"] = None
    text = render_card(report, "identity", WORDS)
    assert "- Base model: tiny model" in text and "- Licence: none is named here\n" in text
    assert "`mit`; the base" not in text


def test_emissions_only_where_they_were_measured(passed) -> None:
    assert "co2_eq_emissions" not in ModelCard.load(passed.main / "README.md").data.to_dict()
    environment = {**passed.report["environment"], "emissions": {"grams": 12.5, "source": "codecarbon", "hours": 2}}
    text = render_card({**passed.report, "environment": environment}, "identity", WORDS)
    data = ModelCard(text).data.to_dict()
    assert data["co2_eq_emissions"] == {"emissions": 12.5, "source": "codecarbon"}
    assert "- Emissions, measured by codecarbon: 12.500 g CO2 equivalents" in text
    guessed = {**passed.report, "environment": {"emissions": {"grams": None}}}
    assert "missions" not in render_card(guessed, "identity", WORDS)


def test_the_salted_hash_stands_beside_what_was_removed(passed) -> None:
    text = render_card(passed.report, "identity", WORDS)
    assert "(60 facts; their text is not published, its salted hash is `cccccccccccccccc…`)" in text


def test_benchmark_scores_are_read_back_from_their_files(exported, publishing, reporting, tmp_path: Path) -> None:
    own = [
        SCORE,
        {**SCORE, "value": 0.29, "transform": "bnb-nf4", "dataset_revision": "a" * 40, "date": "2026-01-01T00:00:00Z"},
        {**SCORE, "task": "mmlu_pro_law", "value": 0.2},
    ]
    others = [{**SCORE, "model": "target", "value": 0.4}]
    report = {**reporting(exported.files), "benchmarks": [*own, *others]}
    made = publishing(exported, tmp_path, report)
    found = {}
    for folder in (made.main, made.variant):
        assert check_folder(folder).intact
        for path in sorted((folder / ".eval_results").iterdir()):
            for entry in parse_eval_result_entries(yaml.safe_load(path.read_text())):
                found[folder.name, path.name] = entry
    assert {key: entry.value for key, entry in found.items()} == {
        ("publish", "MMLU-Pro-mmlu_pro.yaml"): 0.312,
        ("publish", "MMLU-Pro-mmlu_pro_law.yaml"): 0.2,
        ("publish-bnb-nf4", "MMLU-Pro-mmlu_pro.yaml"): 0.29,
    }
    entry = found["publish-bnb-nf4", "MMLU-Pro-mmlu_pro.yaml"]
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == (SCORE["dataset"], "mmlu_pro", "a" * 40)
    assert entry.notes == "after unlearning, in the format bnb-nf4; 5-shot" and entry.date == "2026-01-01T00:00:00Z"
    assert found["publish", "MMLU-Pro-mmlu_pro.yaml"].date == report["created"]


def test_names_of_benchmark_files_are_plain(passed) -> None:
    score = {**SCORE, "dataset": "a/../b", "task": "x/../../y z", "notes": None}
    (name,) = benchmark_files(Report.from_json({**passed.report, "benchmarks": [score]}), "identity")
    assert may_be_published(name), name
    assert benchmark_files(Report.from_json(passed.report), "identity") == {}


def test_a_card_written_again_with_repository_ids(passed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(passed.variant, tmp_path / "again"))
    (folder / SIGNATURE_FILE).write_text("old")
    before = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    words = replace(WORDS, repo_id="org/new", variant_repo_ids={"bnb-nf4": "org/new-bnb-nf4"})
    rewrite_card(folder, words)
    assert check_folder(folder).intact and not (folder / SIGNATURE_FILE).exists()
    assert {name: (folder / name).read_bytes() for name in before} == before
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "org/new" and 'from_pretrained("org/new-bnb-nf4")' in card.text
    first = (folder / "README.md").read_bytes(), (folder / "unlearning_report.json").read_bytes()
    rewrite_card(folder, words)
    assert first == ((folder / "README.md").read_bytes(), (folder / "unlearning_report.json").read_bytes())
    main = Path(shutil.copytree(passed.main, tmp_path / "main"))
    rewrite_card(main, words)
    assert "![forget](plots/forget.png)" in (main / "README.md").read_text() and check_folder(main).intact
    assert load_report(main / "unlearning_report.json")["scores"] == passed.report["scores"]


def test_no_card_is_written_again_that_the_hub_would_refuse(passed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(passed.main, tmp_path / "again"))
    with pytest.raises(RequestError, match="license: 'My License'"):
        rewrite_card(folder, replace(WORDS, license="My License"))
    assert check_folder(folder).intact
    (folder / "unlearning_report.json").write_text("{}")
    with pytest.raises(RequestError, match="was changed after it was written"):
        rewrite_card(folder, WORDS)


def test_settings_within_settings_are_words(passed) -> None:
    method = {"name": "npo", "settings": {"robust": [{"name": "cycles", "rounds": 12}, "sure"], "decay": {}}}
    text = render_card({**passed.report, "method": method}, "identity", WORDS)
    assert "- Method: `npo` (robust name cycles, rounds 12 and sure, decay {})" in text


def test_the_real_validate_takes_every_card(hub: Hub, passed, failed, tmp_path: Path) -> None:
    environment = {"emissions": {"grams": 1, "source": "x"}}
    report = {**passed.report, "environment": environment, "formats": {"bnb-nf4": NF4}}
    texts = [render_card(report, transform, WORDS) for transform in ("identity", "bnb-nf4")]
    texts += [(folder / "README.md").read_text() for folder in (passed.main, passed.variant, failed.main)]
    texts += [render_unverified_card(UnverifiedCard("x", "own/x", "own/base", adapters)) for adapters in (True, False)]
    for number, text in enumerate(texts):
        assert card_problems(text) == []
        (tmp_path / f"{number}.md").write_text(text)
    code = f"""
from huggingface_hub import ModelCard
for number in range({len(texts)}):
    ModelCard.load({str(tmp_path)!r} + f"/{{number}}.md").validate()
"""
    done = run_client(hub, tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    assert len(hub.validated) == len(texts)


def test_single_facts_are_on_the_card_by_count_and_salted_id(failed) -> None:
    report = load_report(failed.main / "unlearning_report.json")
    (row,) = [
        row
        for row in report["known_facts"]
        if (row["model"], row["transform"], row["metric"]) == ("npo", "bnb-nf4", "probability")
    ]
    text = (failed.main / "README.md").read_text(encoding="utf-8")
    assert f"| bnb-nf4 | **{row['known']} of 60** | answer probability | 0.0 | {row['allowed']} |" in text
    assert f"- bnb-nf4: {', '.join(row['facts'][:12])} and 48 more in the report" in text
    assert "0 of 60 facts are still known as it stands; in bnb-nf4 60" in text


def test_a_card_of_an_older_report_has_no_counts(failed) -> None:
    report = {**load_report(failed.main / "unlearning_report.json"), "schema_version": "1.2"}
    del report["known_facts"]
    text = render_card(report, "identity", WORDS)
    assert "ingle facts" not in text and "known_facts" not in text
