"""What was asked of a launcher has to run, or nothing does."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_run import tiny_model, tiny_trainer

from hf_unlearn.errors import RequestError
from hf_unlearn.models.sharding import count_in_pieces, gathered_in_turn, placed
from hf_unlearn.trainer.launch import asks_for_deepspeed, asks_for_fsdp, check_launch


def accelerator(kind, processes=2, **plugins):
    return SimpleNamespace(distributed_type=kind, num_processes=processes, state=SimpleNamespace(**plugins))


def asked(deepspeed=None, fsdp=None):
    return SimpleNamespace(deepspeed=deepspeed, fsdp=fsdp)


@pytest.mark.parametrize(
    ("args", "name"), [(asked(deepspeed={"zero_optimization": {}}), "DeepSpeed"), (asked(fsdp=True), "FSDP")]
)
def test_a_silent_fall_back_to_whole_copies_is_refused(args, name):
    with pytest.raises(RequestError, match=f"{name} was requested, but accelerate would run MULTI_CPU"):
        check_launch(args, accelerator(DistributedType.MULTI_CPU))


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_what_the_launcher_asks_for_counts(tmp_path, monkeypatch, variable):
    trainer = tiny_trainer(tmp_path)
    monkeypatch.setenv(variable, "true")
    assert (asks_for_deepspeed(None), asks_for_fsdp(None)) == ("DEEP" in variable, "FSDP" in variable)
    if "DEEP" in variable:  # one process alone has nobody to share with: FSDP then is no more than the model
        with pytest.raises(RequestError, match="DeepSpeed was requested, but accelerate would run NO"):
            check_launch(trainer.args, trainer.accelerator)


@pytest.mark.parametrize(("gather", "fine"), [(True, True), (False, False), (None, False)])
def test_zero3_without_whole_weights_at_the_end_is_refused(gather, fine):
    settings = {"stage": 3} if gather is None else {"stage3_gather_16bit_weights_on_model_save": gather}
    plugin = SimpleNamespace(zero_stage=3, deepspeed_config={"zero_optimization": settings})
    given = (asked(deepspeed={}), accelerator(DistributedType.DEEPSPEED, deepspeed_plugin=plugin))
    if fine:
        check_launch(*given)
        return
    with pytest.raises(RequestError, match="zero3_save_16bit_model: true"):
        check_launch(*given)


@pytest.mark.parametrize(
    ("version", "efficient", "message"), [(1, False, "fsdp_version: 2"), (2, True, "fsdp_cpu_ram_efficient_loading")]
)
def test_fsdp_that_could_not_be_used_is_refused(version, efficient, message):
    plugin = SimpleNamespace(fsdp_version=version, cpu_ram_efficient_loading=efficient)
    with pytest.raises(RequestError, match=message):
        check_launch(asked(fsdp=True), accelerator(DistributedType.FSDP, fsdp_plugin=plugin))


def test_whole_models_are_left_alone():
    model = tiny_model()
    with gathered_in_turn(model), placed(model, torch.device("cpu")):
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_parameters_in_pieces_are_counted_whole():
    model = tiny_model(tie=True)
    assert count_in_pieces(model) == 0
    counted = model.num_parameters(exclude_embeddings=True)
    for parameter in model.parameters():  # as ZeRO-3 leaves them between passes
        parameter.ds_numel, parameter.data = parameter.numel(), torch.empty(0)
    assert count_in_pieces(model) == counted > 0


def test_a_model_is_back_where_it_was():
    model = tiny_model()
    with placed(model, torch.device("meta")):
        assert next(model.parameters()).device.type == "meta"
        model.to_empty(device="cpu")
    assert next(model.parameters()).device.type == "cpu"
