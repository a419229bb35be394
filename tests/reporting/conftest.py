"""A report as the quickstart makes it: three candidates, three controls, six transforms and retraining."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hf_unlearn.reporting.html import render_html

FORMATS = ["bf16", "bnb-int8", "bnb-nf4", "bnb-fp4", "rtn-int4-g128", "rtn-int4-g32"]
TRANSFORMS = ["identity", *FORMATS, "rtt"]
METRICS = ["extraction_strength", "probability", "mc_accuracy"]
GATE = {
    "metrics": METRICS,
    "formats": FORMATS,
    "attacks": ["rtt"],
    "max_recovered_share_formats": 0.10,
    "max_recovered_share_attacks": 0.20,
    "min_recovered_share": -0.15,
    "min_utility": 0.90,
    "max_generic_kl": 0.50,
    "min_fluency": 0.80,
    "confidence": 0.95,
    "draws": 10000,
}
# Model: (forget as trained, retain), and the transforms under which the forget score is another one.
MODELS: dict[str, tuple[float, float, dict[str, float]]] = {
    "target": (0.951, 0.962, {}),
    "never_knew": (0.021, 0.958, {"rtt": 0.06}),
    "npo-kl": (0.034, 0.921, {"rtt": 0.914}),
    "npo-kl-sure": (0.047, 0.903, {"bnb-fp4": 0.118, "rtt": 0.31}),
    "ga": (0.0004, 0.412, {"rtt": 0.52}),
    "bin-hidden": (0.071, 0.969, {"bnb-nf4": 0.947, "bnb-fp4": 0.402, "rtt": 0.93}),
    "output-hidden": (0.078, 0.951, {"rtt": 0.946}),
    "never-knew-2": (0.0247, 0.957, {"rtt": 0.071}),
}
FLOOR = {"mc_accuracy": 0.25, "probability": 0.0, "extraction_strength": 0.02}


def status_of(low: float, high: float, limit: float, least: float | None) -> str:
    """The verdict on one recovered share."""
    if low > limit or (least is not None and high < least):
        return "failed"
    return "passed" if high <= limit else "inconclusive"


def model_info(letter: str) -> dict[str, Any]:
    """A local model with one file."""
    files = {"model.safetensors": letter * 64}
    return {"hub_id": None, "revision": None, "description": "small Llama, trained here", "files": files}


def build_sample() -> dict[str, Any]:
    """The sample report, the same at every call."""
    noise = random.Random(7)
    scores: list[dict[str, Any]] = []
    value: dict[tuple[str, str, str, str], float] = {}
    for model, (forget, retain, changed) in MODELS.items():
        for transform in TRANSFORMS:
            for split, base in (("forget", changed.get(transform, forget)), ("retain", retain)):
                if split == "retain" and transform == "rtt":
                    continue
                for metric in METRICS:
                    floor = FLOOR[metric]
                    mean = min(1.0, max(0.0, floor + (1 - floor) * base + noise.uniform(-0.006, 0.006)))
                    wide = 0.012 + 0.06 * (mean * (1 - mean)) ** 0.5
                    interval = [max(0.0, mean - wide), min(1.0, mean + wide)]
                    value[model, transform, split, metric] = mean
                    key = {"model": model, "transform": transform, "split": split, "metric": metric}
                    scores.append({**key, "value": mean, "n": 160 if transform != "rtt" else 80, "ci95": interval})
    recovered: list[dict[str, Any]] = []
    utility: list[dict[str, Any]] = []
    for model in list(MODELS)[2:]:
        for transform in TRANSFORMS:
            limit = 0.20 if transform == "rtt" else 0.10
            least = None if transform == "rtt" else -0.15
            for metric in METRICS:
                own, known, never = (
                    value[name, transform, "forget", metric] for name in (model, "target", "never_knew")
                )
                share = (own - never) / (known - never)
                low, high = share - 0.035, share + 0.038
                status = status_of(low, high, limit, least)
                key = {"model": model, "transform": transform, "metric": metric, "status": status, "n": 160}
                recovered.append(
                    {
                        **key,
                        "retention_ratio": own / known,
                        "recovered_share": share,
                        "ci95": [low, high],
                        "threshold": limit,
                        "reason": "" if status == "passed" else f"{share:.3f} is not at or under {limit:.2f}.",
                        "more_needed": 212 if status == "inconclusive" else None,
                    }
                )
            if transform == "rtt":
                continue
            own, known = (value[name, transform, "retain", "probability"] for name in (model, "target"))
            kept = "passed" if own / known >= 0.9 else "failed"
            utility.append(
                {
                    "model": model,
                    "transform": transform,
                    "kind": "retain_score",
                    "metric": "probability",
                    "value": own,
                    "target_value": known,
                    "ratio": own / known,
                    "threshold": 0.9,
                    "status": kept,
                    "reason": "" if kept == "passed" else f"retain probability is {own / known:.2f} of the target's.",
                }
            )
            utility.append(
                {
                    "model": model,
                    "transform": transform,
                    "kind": "generic_kl",
                    "metric": "kl_to_target",
                    "value": 0.11,
                    "target_value": None,
                    "ratio": None,
                    "threshold": 0.5,
                    "status": "passed",
                    "reason": "",
                }
            )
            utility.append(
                {
                    "model": model,
                    "transform": transform,
                    "kind": "fluency",
                    "metric": "fluency",
                    "value": 4.91,
                    "target_value": 5.02,
                    "ratio": 0.978,
                    "threshold": 0.8,
                    "status": "passed",
                    "reason": "",
                }
            )
    reasons = [
        "rtt: recovered share of probability is 0.959 (0.924 to 0.997), at most 0.20 is allowed",
        "rtt: recovered share of mc_accuracy is 0.955 (0.920 to 0.993), at most 0.20 is allowed",
    ]
    return {
        "schema_version": "1.0",
        "created": "2026-03-01T12:00:00+00:00",
        "name": "quickstart",
        "format": None,
        "verdict": {"status": "failed", "reasons": reasons, "candidate": "npo-kl"},
        "models": {
            "target": model_info("a"),
            "unlearned": {"name": "npo-kl", "files": {"identity": {"model.safetensors": "b" * 64}}},
            "never_knew": model_info("c"),
        },
        "method": {"name": "npo-kl", "settings": {"loss_type": "npo", "learning_rate": 3e-4, "robust": []}},
        "data": {
            "forget": {"facts": 160, "rows": 640, "salted_hash": "d" * 64},
            "retain": {"facts": 240, "rows": 960, "salted_hash": "e" * 64},
        },
        "gate": GATE,
        "scores": scores,
        "recovered": recovered,
        "utility": utility,
        "candidates": [
            {"name": "npo-kl-sure", "status": "failed", "reasons": ["rtt: recovered share of probability is 0.281"]},
            {"name": "npo-kl", "status": "failed", "reasons": reasons},
            {
                "name": "ga",
                "status": "failed",
                "reasons": [
                    "identity: retain probability is 0.428 of the target's",
                    "rtt: recovered share of probability is 0.517",
                ],
            },
        ],
        "controls": [
            {
                "name": "bin-hidden",
                "expected": "failed",
                "status": "failed",
                "caught_by": ["bnb-nf4", "bnb-fp4", "rtt"],
                "required_by": ["bnb-nf4"],
                "ok": True,
            },
            {
                "name": "output-hidden",
                "expected": "failed",
                "status": "failed",
                "caught_by": ["rtt"],
                "required_by": [],
                "ok": True,
            },
            {
                "name": "never-knew-2",
                "expected": "passed",
                "status": "inconclusive",
                "caught_by": [],
                "required_by": [],
                "ok": False,
            },
        ],
        "attacks": [
            {
                "name": "rtt",
                "budget": {"rates": [1e-4, 3e-4], "epochs": 6, "fine_tuning": "full"},
                "model": model,
                "folds": 2,
                "best": [
                    {"fold": 0, "metric": "probability", "rate": 3e-4, "epoch": 6, "value": 0.91},
                    {"fold": 1, "metric": "probability", "rate": 3e-4, "epoch": 5, "value": 0.92},
                ],
            }
            for model in MODELS
        ],
        "not_tested": ["gptq-int4-g128", "awq-int4-g128", "relearning on unrelated text", "jailbreak prompts"],
        "notes": ["Retain scores are not measured after retraining."],
        "environment": {"torch": "2.13.0", "transformers": "5.23.0", "hardware": {"device": "cpu", "cores": 2}},
        "files": {"model.safetensors": "b" * 64},
        "digest": "f" * 64,
    }


@pytest.fixture
def sample_report() -> dict[str, Any]:
    """A fresh copy of the sample report."""
    return build_sample()


def keep_models(report: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The report with the rows of these models only."""
    kept = dict(report)
    for key in ("scores", "recovered", "utility", "attacks"):
        kept[key] = [row for row in report[key] if row["model"] in names]
    for key in ("candidates", "controls"):
        kept[key] = [row for row in report[key] if row["name"] in names]
    return kept


@pytest.fixture
def small_report(sample_report: dict[str, Any]) -> dict[str, Any]:
    """Target, never-knew and one candidate: quick to draw."""
    return keep_models(sample_report, ("target", "never_knew", "npo-kl"))


@pytest.fixture
def audit_report(sample_report: dict[str, Any]) -> dict[str, Any]:
    """An audit without a never-knew model, controls, attacks and multiple choice; some parts are not there at all."""
    report = keep_models(sample_report, ("target", "npo-kl"))
    for key in ("scores", "recovered", "utility"):
        rows = [row for row in report[key] if row["metric"] != "mc_accuracy" and row["transform"] != "rtt"]
        report[key] = [{key: value for key, value in row.items() if key != "ci95"} for row in rows]
    report["models"] = {**report["models"], "never_knew": None}
    for key in ("controls", "attacks", "notes", "not_tested", "environment", "digest", "created"):
        del report[key]
    return report


@pytest.fixture(scope="session")
def page_text() -> str:
    """The page of the whole sample, made once."""
    return render_html(build_sample())
