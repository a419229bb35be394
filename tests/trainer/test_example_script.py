"""The script in the form of TRL, with its YAML file and with what the command line changes of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig
from tiny_run import tiny_model, tiny_rows, tiny_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = ["--config", str(EXAMPLES / "unlearn.yaml"), "--use_peft", "--model_name_or_path", "model"]
ARGUMENTS += ["--num_train_epochs", "2", "--lora_r", "4", "--save_strategy", "no", "--use_cpu"]
trl = pytest.importorskip("trl")


def write_rows(path, rows, **columns):
    records = ({"prompt": row.prompt, "completion": row.answer, **columns} for row in rows)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "forget.jsonl", tiny_rows("forget", 4))
    write_rows(tmp_path / "retain.jsonl", tiny_rows("retain", 4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder):
    assert PeftConfig.from_pretrained(str(folder / "unlearned")).r == 4
    card = (folder / "unlearned" / "README.md").read_text()
    assert "Nothing was verified" in card and "learning_rate" in card


def script_here():
    spec = importlib.util.spec_from_file_location("unlearn_example", EXAMPLES / "unlearn.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    return script


def run_here(*arguments):
    script = script_here()
    kinds = (script.UnlearnScriptArguments, script.UnlearnConfig, trl.ModelConfig)
    script.main(*trl.TrlParser(kinds).parse_args_and_config([*arguments]))


def test_the_script_trains_adapters_and_tells_the_curve(folder, capsys):
    run_here(*ARGUMENTS)
    said = capsys.readouterr().out
    assert said.count("eval_forget_probability") == said.count("eval_retain_loss") == 2
    check(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset_name", "nope.jsonl"], "nope.jsonl does not exist: check the path"),
        (["--retain_dataset_name", "nope.csv"], "nope.csv does not exist: check the path"),
        (["--loss_type", "nop"], "there is no forget loss called 'nop': did you mean 'npo'?"),
        (["--learning_rate", "0"], "learning_rate is 0.0, it must be above 0"),
        (["--learning_rat", "x"], "argument --learning_rate/--learning-rate: invalid float value: 'x'"),
        (["--lerning_rate", "1"], "['--lerning_rate', '1']"),
        (["--config", "nope.yaml"], "No such file or directory: 'nope.yaml'"),
    ],
)
def test_a_wrong_request_ends_in_one_sentence(arguments, said, folder, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    config = [] if "--config" in arguments else ["--config", str(EXAMPLES / "unlearn.yaml")]
    monkeypatch.setattr(sys, "argv", ["unlearn.py", *config, *ARGUMENTS[2:], *arguments])
    script = script_here()
    try:
        code = script.run()
    except SystemExit as error:  # of argparse
        code = error.code
    told = capsys.readouterr().err
    assert code == 2 and said in told and "Traceback" not in told
    assert len(told.splitlines()) <= 2


@pytest.mark.slow
def test_the_launcher_runs_the_script(folder):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    done = subprocess.run([*launch, str(EXAMPLES / "unlearn.py"), *ARGUMENTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    check(folder)
