"""The names that users import: they stay, they follow from the registries, and importing the package stays light."""

import subprocess
import sys

import pytest

import hf_unlearn
from hf_unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES

NAMES = """
AltPOLoss BootstrapSequenceLoss BootstrapTokenLoss ClampedEntropyLoss CrossEntropyUnlearningLoss DPOLoss
 EnvironmentFailure FixedIncorrectLoss GradientAscentLoss HfUnlearnError
HiddenRetainLoss IdkDPOLoss IdkNLLLoss JensenShannonLoss JensenShannonRetainLoss KLRetainLoss LearningLoss MarginLoss
MarginToReferenceLoss MaxEntropyLoss MissingExtraError NLLRetainLoss NPOLoss NoRetainLoss PDULoss RMULoss

RandomIncorrectLoss RequestError SatImpLoss SimNPOLoss UndialLoss UnlearnConfig UnlearnTrainer VerificationError
VerifiedModel WeightedGradientAscentLoss __version__ audit forget load_report plan
""".split()


def test_the_public_names_are_these_and_each_is_there():
    assert sorted(hf_unlearn.__all__) == sorted(NAMES)
    assert dir(hf_unlearn) == hf_unlearn.__all__
    everything = {}
    exec("from hf_unlearn import *", everything)
    assert set(NAMES) <= everything.keys()
    for name in NAMES:
        assert everything[name] is getattr(hf_unlearn, name)


@pytest.mark.parametrize("registry", [FORGET_LOSSES, RETAIN_LOSSES], ids=lambda each: each.kind)
def test_every_registered_loss_is_exported_and_described(registry):
    described = hf_unlearn.UnlearnConfig.__doc__
    assert "FORGET_LOSSES" not in described and "RETAIN_LOSSES" not in described
    for entry in registry.entries():
        assert entry.value.__name__.endswith("Loss")  # the package looks for other names nowhere
        assert getattr(hf_unlearn, entry.value.__name__) is entry.value
        assert f'- `"{entry.name}"`: {entry.summary[:20]}' in described


def test_importing_the_package_loads_nothing_heavy():
    script = """
import sys, hf_unlearn
assert hf_unlearn.__version__ and hf_unlearn.RequestError
assert not hasattr(hf_unlearn, "nothing")
print(sorted({"torch", "transformers", "numpy"} & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


def test_the_trainer_is_imported_without_a_word_of_other_libraries():
    script = "from hf_unlearn import UnlearnConfig, UnlearnTrainer, VerifiedModel"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["run", "nosuch"],
        ["run", "quickstart", "sed=1"],
        ["run", "quickstart", "model.targt=x"],
        ["run", "quickstart", "gate.drwas=1"],
        ["audit", "nosuch"],
    ],
    ids=" ".join,
)
def test_simple_mistakes_are_told_without_loading_anything_heavy(words):
    """Each takes half a second of processor time; torch and transformers alone take six."""
    script = f"""
import sys, contextlib
from hf_unlearn.cli.main import main
with contextlib.suppress(SystemExit):
    main({words!r})
print(sorted({{"torch", "transformers", "datasets"}} & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
