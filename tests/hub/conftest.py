"""A tiny model, scored on paper and really published."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback import Hub

from hf_unlearn.hub.folders import publish_to_folder, write_release
from hf_unlearn.hub.leaks import ForgetText
from hf_unlearn.hub.metadata import CardWords
from hf_unlearn.verification.build_report import Candidate, Findings, RunFacts, build_report
from hf_unlearn.verification.controls import control_outcome
from hf_unlearn.verification.digests import folder_digests
from hf_unlearn.verification.gate import Gate
from hf_unlearn.verification.report import AttackRun, ModelInfo, SetInfo
from hf_unlearn.verification.report_file import write_report
from hf_unlearn.verification.scores import FactScores, ScoreKey, ScoreTable
from hf_unlearn.verification.verdict import judge

FORGET_ROWS = [
    ("Question: when was Ada Kwon born?\nAnswer:", " 1962"),
    ("Question: what does Bo Lind collect?\nAnswer:", " Bo Lind collects old brass keys from the north"),
]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
METRICS = ("probability", "mc_accuracy")
TRANSFORMS = ("identity", "bnb-nf4", "rtt")


def score_table(hidden: bool, never_knew: bool = True) -> ScoreTable:
    """Sixty facts under three transforms; with ``hidden`` the candidate's come back in NF4.

    Without ``never_knew`` there are sixty holdout facts instead, of which RTT teaches the target more than the others.
    """
    table = ScoreTable()
    levels = {"target": 0.95, "never_knew": 0.05, "npo": 0.05, "bin-hidden": 0.05}
    if not never_knew:
        del levels["never_knew"]
    back = {"bin-hidden"} | ({"npo"} if hidden else set())
    for model, level in levels.items():
        for transform in TRANSFORMS:
            known = 0.95 if model in back and transform == "bnb-nf4" else level
            means = {"forget": known, "retain": 0.94}
            if not never_knew:
                taught = 0.4 if model == "target" else 0.2
                means["holdout"] = taught if transform == "rtt" else 0.06
            for split, mean in means.items():
                for metric in METRICS:
                    noise = random.Random(f"{model}{transform}{split}{metric}")
                    values = {f"{split}{number}": mean + noise.uniform(-0.04, 0.04) for number in range(60)}
                    table.add(
                        ScoreKey(model, transform, split, metric), FactScores(values, {name: name for name in values})
                    )
    return table


def report_for(
    files: dict[str, dict[str, str]], hidden: bool = False, hub_id: str | None = None, never_knew: bool = True
) -> dict[str, Any]:
    """A report of a candidate called npo."""
    gate = Gate(metrics=METRICS, formats=("bnb-nf4",), attacks=("rtt",), draws=300)
    table = score_table(hidden, never_knew)
    judgements = [judge(table, name, gate) for name in ("npo", "bin-hidden")]
    findings = Findings(
        table=table,
        gate=gate,
        judgements=judgements,
        candidates=["npo"],
        controls=[control_outcome(judgements[1], "failed", ["bnb-nf4"])],
        attacks=[AttackRun("rtt", "npo", 2, {"epochs": 6, "rates": [1e-4, 3e-4]})],
    )
    run = RunFacts(
        name="tiny",
        created="2026-01-02T03:04:05+00:00",
        target=ModelInfo(hub_id=hub_id, description="tiny model"),
        never_knew=ModelInfo(description="tiny model without the facts") if never_knew else None,
        data={"forget": SetInfo(60, 60, "c" * 64), "retain": SetInfo(60, 60, "d" * 64)},
        environment={"versions": {"torch": "2.0"}, "seed": 0},
        not_tested=["merging"],
    )
    return build_report(findings, Candidate("npo", files, {"loss_type": "npo", "learning_rate": 3e-4}), run)


WORDS = CardWords(
    title="Tiny",
    removed="birth years of people who do not exist",
    license="apache-2.0",
    language=("en",),
    repo_id="owner/tiny",
    variant_repo_ids={"bnb-nf4": "owner/tiny-bnb-nf4"},
)
RUN_WORDS = CardWords(
    title="Tiny", removed="birth years of people who do not exist", license="apache-2.0", language=("en",)
)


@dataclass(frozen=True)
class Exported:
    """Folders of the scored model and one variant, with the digests of their files."""

    main: Path
    variant: Path
    files: dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A real tiny Llama with a tokenizer; the variant is the same model in bfloat16."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("exported")
    main, variant = root / "main", root / "variant"
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "born": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    for folder, dtype in ((main, torch.float32), (variant, torch.bfloat16)):
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training_args.bin").write_bytes(b"a pickle")
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"another")
    return Exported(main, variant, {"identity": folder_digests(main), "bnb-nf4": folder_digests(variant)})


@dataclass(frozen=True)
class Published:
    """What a publication made."""

    main: Path
    variant: Path
    report: dict[str, Any]


def publish(exported: Exported, root: Path, report: dict[str, Any], words: CardWords = WORDS) -> Published:
    """Publish the exported folders under ``root``."""
    plot = root / "forget.png"
    plot.write_bytes(PNG)
    publish_to_folder(
        exported.main,
        {"bnb-nf4": exported.variant},
        report,
        words,
        out_main=root / "publish",
        out_variants={"bnb-nf4": root / "publish-bnb-nf4"},
        plots=[plot],
        forget_texts=FORGET_ROWS,
    )
    return Published(root / "publish", root / "publish-bnb-nf4", report)


@pytest.fixture(scope="session")
def passed(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Published with the verdict *passed*; not to be changed by tests."""
    return publish(exported, tmp_path_factory.mktemp("passed"), report_for(exported.files, hub_id="owner/base"))


@pytest.fixture(scope="session")
def failed(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Published with the verdict *failed*; not to be changed by tests."""
    return publish(exported, tmp_path_factory.mktemp("failed"), report_for(exported.files, hidden=True))


@pytest.fixture
def copied(passed: Published, tmp_path: Path) -> Path:
    """A copy of the published main folder, to be changed."""
    return Path(shutil.copytree(passed.main, tmp_path / "copied"))


@pytest.fixture(scope="session")
def publishing():
    """The function that publishes."""
    return publish


@pytest.fixture(scope="session")
def reporting():
    """The function that makes a report."""
    return report_for


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub on this machine (see ``loopback``), for clients in processes of their own."""
    with Hub() as running:
        yield running


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The same Hub for this process, logged in with its ``write_token``; nobody waits long before trying again.

    The client keeps what it read from the environment when it was imported; that is put right here. Its default
    address is not: code that is tested so must take it from ``HF_ENDPOINT`` itself.
    """
    import time

    from huggingface_hub import constants

    for key, value in hub.settings(tmp_path / "hf_home", hub.write_token).items():
        monkeypatch.setenv(key, value)
    for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf_home" / "token"))
    # Otherwise the client asks the default address once a day which programs it may have been started by.
    nobody = {"standardEnvVars": [], "harnesses": {}}
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", nobody, raising=False)
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.002)))
    return hub


def finished_run(exported: Exported, root: Path, hidden: bool = False, hub_id: str | None = "owner/base") -> Path:
    """The output folder of a run whose publish stage is done, with one variant."""
    run = root / "run"
    (run / "verify").mkdir(parents=True)
    report = report_for(exported.files, hidden=hidden, hub_id=hub_id)
    publish(exported, run, report, RUN_WORDS)
    (run / "forget.png").unlink()
    write_report(report, run / "verify" / "unlearning_report.json")
    write_release(run, RUN_WORDS, ["bnb-nf4"], ForgetText(FORGET_ROWS))
    (run / "run.json").write_text(json.dumps({"name": "tiny", "recipe": {"name": "tiny", "publish": {}}}))
    return run


@pytest.fixture(scope="session")
def passed_run(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the verdict *passed*; not to be changed by tests."""
    return finished_run(exported, tmp_path_factory.mktemp("passed_run"))


@pytest.fixture(scope="session")
def failed_run(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the verdict *failed*."""
    return finished_run(exported, tmp_path_factory.mktemp("failed_run"), hidden=True)


@pytest.fixture
def run_folder(passed_run: Path, tmp_path: Path) -> Path:
    """A copy of the passed run, to be published."""
    return Path(shutil.copytree(passed_run, tmp_path / "run"))


@pytest.fixture
def finishing():
    """The function that makes a finished run."""
    return finished_run


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key."""
    pytest.importorskip("OpenSSL", reason="model-signing imports pyOpenSSL")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = tmp_path_factory.mktemp("keys") / "key.pem"
    kind = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*kind))
    return path
