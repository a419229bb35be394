"""The report: what goes in, the schema, and that every changed byte is seen."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn.errors import RequestError
from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
from hf_unlearn.verification.controls import control_outcome
from hf_unlearn.verification.report import AttackRun, ModelInfo, SetInfo
from hf_unlearn.verification.report_file import (
    canonical,
    for_folder,
    load_report,
    read_report,
    report_problems,
    schema_problems,
    seal,
    validate_report,
    write_report,
)
from hf_unlearn.verification.verdict import judge


@pytest.fixture
def report(plain, gate) -> dict:
    plain.model("hidden", 0.05, bnb_nf4=0.95)
    judgements = [judge(plain.table, name, gate) for name in ("good", "hidden")]
    findings = Findings(
        table=plain.table,
        gate=gate,
        judgements=judgements,
        candidates=["good"],
        controls=[control_outcome(judgements[1], "failed", ["bnb-nf4"])],
        attacks=[AttackRun("rtt", "good", 2, {"epochs": 6}, ({"fold": 0, "metric": "probability", "epoch": 4},))],
    )
    candidate = Candidate(
        "good", {"identity": {"model.safetensors": "b" * 64}}, {"loss_type": "npo", "robust": ("sure",)}
    )
    run = RunFacts(
        name="try",
        created="2026-01-02T03:04:05+00:00",
        target=ModelInfo(hub_id="owner/base", revision="0" * 40, files={"model.safetensors": "a" * 64}),
        never_knew=ModelInfo(description="trained without the forget set"),
        data={"forget": SetInfo(60, 120, "c" * 64)},
        environment={"versions": {"torch": "2"}},
        not_tested=["merging", "KL on generic text"],
        notes=["a note"],
    )
    return build_report(findings, candidate, run)


def test_the_report_says_what_was_measured(report, plain) -> None:
    assert schema_problems(report) == []
    verdict = report["verdict"]
    assert verdict["status"] == "passed" and verdict["candidate"] == "good"
    assert verdict["judged"]["transforms"] == 3 and verdict["judged"]["comparisons"] == 6
    assert verdict["judged"]["joint_factor"] >= 1
    assert [(each["transform"], each["kind"], each["budget"]) for each in verdict["outcomes"]] == [
        ("identity", "format", {}),
        ("bnb-nf4", "format", {}),
        ("rtt", "attack", {"epochs": 6}),
    ]
    assert [candidate["name"] for candidate in report["candidates"]] == ["good"]
    assert report["controls"][0]["ok"] is True and report["controls"][0]["caught_by"] == ["bnb-nf4"]
    assert len(report["scores"]) == len(plain.table.scores)
    row = next(row for row in report["scores"] if row["model"] == "target" and row["split"] == "retain")
    scores = plain.table.get("target", row["transform"], "retain", row["metric"])
    assert row["value"] == pytest.approx(scores.mean) and row["n"] == 120
    assert row["ci95"][0] < row["value"] < row["ci95"][1]
    assert {row["model"] for row in report["recovered"]} == {"good", "hidden"}
    for row in report["recovered"]:
        assert row["joint95"][0] <= row["ci95"][0] <= row["ci95"][1] <= row["joint95"][1]
    assert report["not_tested"] == ["KL on generic text", "merging"]


def test_every_changed_byte_of_a_report_is_seen(report, tmp_path: Path) -> None:
    path = tmp_path / "unlearning_report.json"
    write_report(report, path)
    data = path.read_bytes()
    assert load_report(path) == report
    for place in range(0, len(data), 97):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert report_problems(changed), place
    for changed in (data + b"\n", data[:-1], b" " + data, data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data, b""):
        assert report_problems(changed)
    assert report_problems(json.dumps(report).encode())
    assert report_problems(b"[" * 100_000) == ["is not readable JSON"]
    path.write_bytes(data[:-1])
    with pytest.raises(RequestError, match="was changed after it was written"):
        load_report(path)
    with pytest.raises(RequestError, match="cannot be read as a report"):
        load_report(tmp_path / "none.json")


def test_folders_of_a_release_share_what_is_checked(report) -> None:
    """The second report with the same body is checked by its own part only, and as strictly."""
    files = {"config.json": "a" * 64, "model.safetensors": "b" * 64}
    one = seal({**report, "format": "identity", "files": files})
    for own in ({"format": "bnb-nf4", "files": {}}, {"format": None, "files": {"\u2028{": "c" * 64}}):
        two = seal({**report, **own})
        assert read_report(canonical(one)) == (one, []) and read_report(canonical(two)) == (two, [])
        assert for_folder(one, own["files"]) == canonical(seal({**one, "files": own["files"]}))
    assert read_report(canonical(seal({**one, "files": {"README.md": "short"}})))[1] == [
        "files.README.md: 'short' does not match '^[0-9a-f]{64}$'"
    ]
    data = canonical(one)
    for old, new in (
        (b'"format": "identity"', b'"format":  "identity"'),
        (b'  "format": "identity",\n', b'  "format": "bnb-nf4",\n  "format": "identity",\n'),
        (b'    "config.json"', b'  \n    "config.json"'),
        (b'  "format": "identity",\n', b""),
        (b'  "format": "identity",\n', b'  "format": "bnb-nf4",\n'),
        (b'  "digest": "', b'  "digest": "0'),
    ):
        assert old in data and read_report(data.replace(old, new))[1], new
    assert for_folder({"files": {}}, files) == canonical(seal({"files": files}))


def test_seal_is_canonical_and_stable(report) -> None:
    turned = dict(reversed(report.items()))
    assert canonical(seal(turned)) == canonical(report)
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal({**report, "environment": {"x": float("nan")}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict", "status"), "certified"),
        (("surprise",), 1),
        (("scores", 0, "value"), "high"),
        (("recovered", 0, "ci95"), [0.1]),
        (("models", "target", "path"), "/home/me"),
        (("files",), {"README.md": "short"}),
        (("created",), "yesterday"),
        (("schema_version",), "0.9"),
    ],
)
def test_the_schema_is_strict(report, path, value) -> None:
    changed = copy.deepcopy(report)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RequestError, match="does not fit the schema"):
        validate_report(changed)


def test_a_candidate_that_was_not_judged(plain, gate) -> None:
    findings = Findings(plain.table, gate, [judge(plain.table, "good", gate)], ["good"])
    run = RunFacts("try", "2026-01-02T03:04:05+00:00", ModelInfo(), None, {})
    with pytest.raises(RequestError, match="'other' was not judged: there are good"):
        build_report(findings, Candidate("other", {}), run)


def test_verification_needs_no_torch() -> None:
    """Judging scores must work where no model can be run."""
    code = (
        "import sys, pkgutil, importlib, hf_unlearn.verification as package\n"
        "[importlib.import_module(package.__name__ + '.' + m.name) for m in pkgutil.iter_modules(package.__path__)]\n"
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
