"""GPTQ and AWQ: what is stored, what stock loading makes of it, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_models import VOCABULARY, calibration, save_model, skip_without
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.errors import EnvironmentFailure, MissingExtraError, RequestError
from hf_unlearn.models.loading import load_model
from hf_unlearn.models.packed import awq_weight, gptq_weight, unpack
from hf_unlearn.quantization import FORMATS, export_format
from hf_unlearn.quantization.base import ExportInfo
from hf_unlearn.runtime.environment import environment_failures
from hf_unlearn.stages.export import INFO_FILE, export_job
from hf_unlearn.stages.units import Unit

NAMES = ["gptq-int4-g32", "gptq-int8-g128", "gptq-int3-g32", "awq-int4-g32"]
REST = ["gptq-int4-g128", "gptq-int3-g128", "gptq-int8-g32", "awq-int4-g128"]
LAYER = "model.layers.1.mlp.down_proj"
NARROW = "model.layers.1.self_attn.k_proj"
Exported = tuple[Path, ExportInfo]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def made(tmp_path_factory, source):
    """A format's name to its folder and info, made once. Tests must not write there."""
    done: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        skip_without(name)
        if name not in done:
            target = tmp_path_factory.mktemp("made") / name
            done[name] = (target, export_format(name, source, target, calibration()))
        return done[name]

    return get


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(48).view(2, 24)).logits.float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def bits_of(words: torch.Tensor, bits: int) -> list[int]:
    """Values of a row of words as one long number, lowest first: the definition, one value at a time."""
    number = sum((int(word) & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words.tolist()))
    return [number >> (bits * place) & (2**bits - 1) for place in range(32 * len(words) // bits)]


def by_hand(tensors: dict[str, torch.Tensor], layer: str, name: str) -> torch.Tensor:
    """A layer's weight ``[out, in]`` from what is stored, one value at a time."""
    bits, group = int(name[name.index("int") + 3]), int(name.rpartition("g")[2])
    words, zeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
    columns = []
    for column in range(scales.shape[1]):
        if name.startswith("awq"):
            shift = 4 * [0, 4, 1, 5, 2, 6, 3, 7][column % 8]
            codes = [word >> shift & 15 for word in words[:, column // 8].tolist()]
            starts = [word >> shift & 15 for word in zeros[:, column // 8].tolist()]
        else:
            codes = bits_of(words[:, column], bits)
            starts = [bits_of(row, bits)[column] + 1 for row in zeros]
        steps = scales[:, column].tolist()
        columns.append([(code - starts[at // group]) * steps[at // group] for at, code in enumerate(codes)])
    return torch.tensor(columns)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_are_unpacked_as_they_are_defined(bits):
    words = torch.randint(-(2**31), 2**31, (2 * bits, 3), generator=torch.Generator().manual_seed(bits)).int()
    found = unpack(words, bits)
    for column in range(3):
        assert found[:, column].tolist() == bits_of(words[:, column], bits)


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_stock_from_pretrained_gives_what_is_stored(name, made, source):
    target, info = made(name)
    tensors = load_file(target / "model.safetensors")
    weight_of = awq_weight if name.startswith("awq") else gptq_weight
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    expected.load_state_dict({key: item.float() for key, item in tensors.items()}, strict=False)
    with torch.no_grad():
        for key, module in expected.named_modules():
            if f"{key}.qweight" in tensors:
                parts = {part.rpartition(".")[2]: item for part, item in tensors.items() if part.startswith(f"{key}.")}
                module.weight.copy_(weight_of(parts, info.bits, info.group_size))
    narrow = expected.get_submodule(NARROW).weight
    assert torch.allclose(narrow, by_hand(tensors, NARROW, name), atol=1e-7)
    want = logits(expected)
    assert distance(logits(load_model(target)), want) <= info.tolerance / 2
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    away = distance(logits(plain), want)
    # INT8 is nearer to the source than this test needs to tell them apart.
    assert "int8" in name or away > info.tolerance, "this test must be able to tell the format from the source"
    # Rounding that made up for nothing, or on other text, would still be near; wrong zero points are not.
    assert away < 0.5
    assert 0 < info.reload_error <= info.tolerance / 2
    share = sum(layer.weight.numel() for key, layer in expected.named_modules() if f"{key}.qweight" in tensors)
    assert info.quantized_share == pytest.approx(share / sum(item.numel() for item in expected.parameters()))
    assert info.bytes == (target / "model.safetensors").stat().st_size


def test_all_bits_quantize_the_same_layers_as_round_to_nearest(made, source, tmp_path):
    shares = {made(name)[1].quantized_share for name in ("gptq-int4-g32", "awq-int4-g32")}
    assert shares == {export_format("rtn-int4-g32", source, tmp_path / "rtn").quantized_share}


def test_rounding_looks_at_the_text(source, tmp_path):
    """GPTQ on the text it was made for is nearer to the source there than plain rounding is."""
    skip_without("gptq-int3-g128")
    text = calibration()
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows = [torch.tensor([row]) for row in text.encode(tokenizer, 64)]
    export_format("gptq-int3-g128", source, tmp_path / "gptq", text)
    export_format("rtn-int3-g128", source, tmp_path / "rtn")
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)

    def away(folder: Path) -> float:
        model = load_model(folder)
        with torch.inference_mode():
            return sum(distance(model(input_ids=ids).logits, plain(input_ids=ids).logits) for ids in rows)

    assert away(tmp_path / "gptq") < 0.9 * away(tmp_path / "rtn")


@pytest.fixture(scope="module")
def made_again(source, tmp_path_factory) -> Exported:
    """``gptq-int4-g32`` a second time, in a working folder where nothing else is."""
    skip_without("gptq-int4-g32")
    folder = tmp_path_factory.mktemp("again")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder / "made", export_format("gptq-int4-g32", source, folder / "made", calibration())


def test_the_same_seed_gives_the_same_bytes_and_another_text_does_not(made, made_again, source, tmp_path):
    """AWQ is made twice where a sharded checkpoint is compared with one file."""
    name = "gptq-int4-g32"
    target, info = made(name)
    folder, again = made_again
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (target / weights).read_bytes()
    assert again == info
    aware = export_format(f"{name}@forget-aware", source, tmp_path / "aware", calibration("forget-aware"))
    assert (tmp_path / "aware" / weights).read_bytes() != (target / weights).read_bytes()
    assert aware.format == f"{name}@forget-aware"
    assert aware.calibration["kind"] == "forget-aware" and aware.calibration["forget_rows"] == 12


@pytest.mark.parametrize("name", ["gptq-int4-g32", "awq-int4-g32"])
def test_the_folder_holds_the_model_and_nothing_of_the_quantizer(name, made, source):
    target, info = made(name)
    allowed = {item.name for item in source.iterdir()} | {"quantize_config.json"}
    assert {item.name for item in target.iterdir()} <= allowed
    for file in ("tokenizer.json", "generation_config.json"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, target))
    assert after.pop("quantization_config")["group_size"] == 32
    assert after | {"transformers_version": ""} == before | {"transformers_version": ""}
    assert info.calibration["tokens"] > 256 and info.calibration["rows"] == 24
    assert str(source) not in "".join(file.read_text() for file in target.glob("*.json"))


def test_the_library_writes_no_logs_into_the_users_folder(made_again):
    assert [item.name for item in made_again[0].parent.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["gptq-int8-g128", "gptq-int4-g32"])
def test_nothing_is_compiled_to_score_it(name, made):
    model = load_model(made(name)[0])
    counters = torch._dynamo.utils.counters
    counters.clear()
    logits(model)
    assert not counters["stats"]


def test_a_file_with_damaged_integers_is_not_kept(source, tmp_path):
    name = "gptq-int4-g32"
    skip_without(name)

    class Damaging(FORMATS.get(name).value):
        def write(self, source, target):
            written = super().write(source, target)
            tensors = load_file(target / "model.safetensors")
            for key in tensors:
                if key.endswith("qzeros"):
                    tensors[key] = tensors[key] + 0x11111111
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
            return written

    with pytest.raises(EnvironmentFailure, match="does not load as the weights that were written"):
        Damaging().export(source, tmp_path / "out", calibration())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"hidden_size": 64, "num_attention_heads": 2}, "gptq-int4-g128", r"multiples of 128, but .*q_proj has 64"),
        ({"head_dim": 48}, "gptq-int4-g32", r"outputs? sizes in multiples of 32, but .*k_proj has 48"),
        ({"head_dim": 32}, "awq-int4-g32", r"outputs? sizes in multiples of 64, but .*k_proj has 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_layer_name(changes, name, message, tmp_path):
    skip_without(name)
    folder = save_model(tmp_path / "odd", **changes)
    with pytest.raises(RequestError, match=message):
        export_format(name, folder, tmp_path / "out", calibration())
    assert not (tmp_path / "out").exists()


def test_a_model_the_library_does_not_know_is_refused(source):
    skip_without("awq-int4-g32")
    config = AutoConfig.from_pretrained(source)
    config.model_type = "no-such-type"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(RequestError, match="knows no models of type 'no-such-type'"):
        FORMATS.get("awq-int4-g32").value().check_model(model)


def test_no_text_and_too_little_text_are_refused(source, tmp_path):
    skip_without("awq-int4-g32")
    with pytest.raises(RequestError, match="calibrated on text, but none was given"):
        export_format("awq-int4-g32", source, tmp_path / "out")
    with pytest.raises(RequestError, match=r"has \d+ tokens in 24 rows, and 9999 are needed"):
        export_format("awq-int4-g32", source, tmp_path / "out", calibration(min_tokens=9999))
    assert not (tmp_path / "out").exists()


def test_what_is_quantized_already_or_not_finite_is_refused(made, source, tmp_path):
    quantized, _ = made("awq-int4-g32")
    with pytest.raises(RequestError, match=r"already quantized \(awq\)"):
        export_format("gptq-int4-g32", quantized, tmp_path / "twice", calibration())
    shutil.copytree(source, tmp_path / "nan")
    tensors = load_file(source / "model.safetensors")
    tensors[f"{LAYER}.weight"][3, 4] = float("nan")
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=rf"not finite \({LAYER}\.weight\)"):
        export_format("awq-int4-g32", tmp_path / "nan", tmp_path / "out", calibration())
    assert not (tmp_path / "out").exists() and not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("package", "version", "kind", "message"),
    [
        (
            "gptqmodel",
            "7.7.0",
            EnvironmentFailure,
            r"needs gptqmodel >=7\.6,<7\.7, and 7\.7\.0 is installed: run  pip",
        ),
        ("gptqmodel", None, MissingExtraError, r"needs gptqmodel, .*hf_unlearn\[gptq\]"),
        ("optimum", None, MissingExtraError, r"needs optimum, .*hf_unlearn\[gptq\]"),
    ],
)
def test_a_library_that_is_missing_or_of_another_version(package, version, kind, message, monkeypatch):
    installed = importlib.metadata.version

    def other(wanted: str) -> str:
        if wanted != package:
            return "2.3.0" if wanted == "optimum" else installed(wanted)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(wanted)
        return version

    monkeypatch.setattr(importlib.metadata, "version", other)
    with pytest.raises(kind, match=message):
        FORMATS.get("gptq-int4-g32").value().check_available()


def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path):
    skip_without("gptq-int4-g32")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Beyond this writing fails with EFBIG, as a full disk does with ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(EnvironmentFailure, match="then run the same command again"),
            environment_failures(tmp_path),
        ):
            export_format("gptq-int4-g32", source, tmp_path / "out", calibration())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_unit_that_is_killed_halfway_is_no_result(source, tmp_path):
    """Killed while the quantizer works: nothing looks finished, and the next attempt makes it."""
    skip_without("awq-int4-g32")
    unit = Unit(tmp_path / "export" / "awq-int4-g32", {"stage": "export"})
    code = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from text_models import calibration\n"
        "from hf_unlearn.stages.export import export_job\n"
        "from hf_unlearn.stages.units import Unit\n"
        "unit = Unit(Path(sys.argv[3]), {'stage': 'export'})\n"
        "export_job(unit, 'awq-int4-g32', Path(sys.argv[2]), calibration())\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(source), str(unit.path)]
    worker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    written = unit.partial / "written"
    while not written.exists() and worker.poll() is None:
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert unit.partial.exists() and not unit.done and not unit.path.exists()
    export_job(unit, "awq-int4-g32", source, calibration())
    assert unit.done and not unit.partial.exists()
    info = json.loads((unit.path / INFO_FILE).read_text())
    assert info["calibration"]["rows"] == 24
    assert AutoConfig.from_pretrained(unit.path).vocab_size == VOCABULARY
