"""What parts need of sharded weights, without any process besides this one."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from hf_unlearn.errors import RequestError
from hf_unlearn.models.even_share import even_share
from hf_unlearn.robust.averaging import WeightAveraging
from hf_unlearn.robust.cycles import Cycles
from hf_unlearn.robust.shard_files import save_shard, with_shard
from hf_unlearn.robust.trained_weights import TrainedWeights
from hf_unlearn.robust.weights import save_tensors
from hf_unlearn.robust.zero_weights import clear_states
from hf_unlearn.trainer.term_passes import check_parts


def process(monkeypatch, rank, processes):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(processes))


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_all_processes_get_equally_many_rows_and_each_row_counts_once(monkeypatch, count):
    shares = []
    for rank in range(3):
        process(monkeypatch, rank, 3)
        shares.append(even_share(count))
    assert len({len(share.places) for share in shares}) == 1
    assert sorted(place for share in shares for place in share.places[: share.own]) == list(range(count))
    assert all(0 <= place < count for share in shares for place in share.places)


def test_a_process_alone_has_all_rows():
    assert even_share(5) == even_share(5).__class__(list(range(5)), 5)


def held(*shape):
    return TrainedWeights(torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.zeros(*shape))}))


def test_each_process_reads_its_own_shard(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint-1" / "parts" / "kept.safetensors"
    save_tensors(file, {"count": torch.tensor(1)})
    for rank in range(2):
        process(monkeypatch, rank, 2)
        save_shard(file, {"w": torch.full((2, 3), float(rank))})
    for rank in range(2):
        process(monkeypatch, rank, 2)
        assert with_shard(file, {}, held(2, 3), "part")["w"].unique().tolist() == [rank]
    # As many processes that shard another way, another number of them, and one with whole weights.
    for rank, processes, shape in ((1, 2, (4, 3)), (2, 3, (2, 3)), (0, 1, (4, 3))):
        process(monkeypatch, rank, processes)
        with pytest.raises(RequestError, match=r"part: what .*checkpoint-1 holds belongs to the shards of another"):
            with_shard(file, {}, held(*shape), "part")


def test_whole_weights_are_not_taken_for_a_shard(tmp_path):
    file = tmp_path / "checkpoint-1" / "parts" / "kept.safetensors"
    whole = {"w": torch.zeros(4, 3)}
    assert with_shard(file, whole, held(4, 3), "part") is whole
    with pytest.raises(RequestError, match="another launch"):
        with_shard(file, whole, held(2, 3), "part")
    assert with_shard(file, {}, held(2, 3), "part") == {}  # nothing was kept: any launch can go on


REHEARSES = Cycles(rehearse_steps=1)


def engine(stage=2, **settings):
    config = {"zero_optimization": {"stage": stage, **settings.pop("zero", {})}, **settings}
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin))


@pytest.mark.parametrize("part", [REHEARSES, WeightAveraging()])
@pytest.mark.parametrize("stage", [2, 3])
def test_parts_that_go_by_shards_are_allowed(part, stage):
    plain = SimpleNamespace(fp16=False)
    check_parts([part], engine(stage, zero={"offload_optimizer": {"device": "cpu"}}), plain)
    check_parts([part], SimpleNamespace(distributed_type=DistributedType.FSDP), plain)


@pytest.mark.parametrize(
    ("running", "fp16", "what"),
    [
        (engine(1), False, "ZeRO stage 1"),
        (engine(2), True, "fp16"),
        (engine(3, zero={"offload_optimizer": {"device": "nvme"}}), False, "an optimizer on NVMe"),
        (engine(2, zero={"zenflow": {"topk_ratio": 0.1}}), False, "ZenFlow"),
        (engine(3, optimizer={"type": "Muon"}), False, "Muon"),
    ],
)
def test_what_deepspeed_does_otherwise_is_refused(running, fp16, what):
    with pytest.raises(RequestError, match=f"Cycles changes and steps .* not possible with {what}"):
        check_parts([REHEARSES], running, SimpleNamespace(fp16=fp16))
    check_parts([Cycles()], running, SimpleNamespace(fp16=fp16))  # phases alone change nothing themselves


def test_noise_still_needs_whole_weights():
    with pytest.raises(RequestError, match="Cycles needs whole weights, and FSDP shards them"):
        check_parts(
            [Cycles(perturb=0.1)], SimpleNamespace(distributed_type=DistributedType.FSDP), SimpleNamespace(fp16=False)
        )


def test_nothing_of_a_zero_optimizers_states_is_left():
    """Also what fused optimizers count by group, and the slices that ZeRO-2 keeps of them for each weight."""
    mapping = SimpleNamespace(optim_fragment={"exp_avg": torch.ones(2)})
    weights = [SimpleNamespace(_hp_mapping=mapping), SimpleNamespace(_hp_mapping=None)]
    zero = SimpleNamespace(
        state={0: {"exp_avg": torch.ones(2)}},
        param_groups=[{"lr": 0.1, "step": 3}, {"lr": 0.2}],
        bit16_groups=[weights],
        _hp_optimizer_states_linked=True,
    )
    clear_states(zero)
    assert zero.state == {} and zero.param_groups == [{"lr": 0.1, "step": 0}, {"lr": 0.2}]
    assert mapping.optim_fragment is None and not zero._hp_optimizer_states_linked
