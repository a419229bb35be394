"""A small model that knows planted facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from hf_unlearn.data.encoding import TextFormat, encode_row, load_tokenizer
from hf_unlearn.data.example import EMPTY_SET, DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.loading import load_model
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer, train_scratch_model
from hf_unlearn.stages.models import scratch_rows, tokenizer_texts

THIRTY = PlantedSpec(forget=30, retain=20, holdout=10, practice=10, generic=10, first_year=1960)
FEW = PlantedSpec(forget=10, retain=8, holdout=0, practice=4, generic=4, first_year=1970)


def train_knowing_model(
    bundle: DataBundle, folder: Path, *, epochs: int, batch_size: int, texts: DataBundle | None = None
) -> Path:
    """Train it on all sets of the bundle and save it in a folder, which is returned.

    The tokenizer is made for the texts of ``texts``, or of the same bundle.
    """
    spec = ScratchSpec(
        64, 128, 2, 2, 1, vocab_size=500, max_positions=64, epochs=epochs, batch_size=batch_size, learning_rate=4e-3
    )
    rows = list(scratch_rows(bundle, with_forget=True, with_extra=False))
    tokenizer = build_tokenizer(tokenizer_texts(texts or bundle), spec)
    train_scratch_model(spec, rows, tokenizer, TextFormat(), folder, progress="")
    return folder


def train_on_few(folder: Path) -> None:
    """A model for several files of tests, to be made once (``made_once``): it knows all that ``FEW`` makes."""
    train_knowing_model(make_planted(FEW), folder, epochs=20, batch_size=8)


def train_three(folder: Path) -> None:
    """Models for several files of tests, to be made once: ``knowing`` all of ``THIRTY``; ``never``, which learned all
    but the forget facts, whose form it has seen in others; and ``hiding``, the first with the forgotten years
    suppressed by one direction at its head."""
    bundle = make_planted(THIRTY)
    knowing, hiding = folder / "knowing", folder / "hiding"
    train_knowing_model(bundle, knowing, epochs=32, batch_size=16)
    without = replace(bundle, forget=EMPTY_SET)
    train_knowing_model(without, folder / "never", epochs=32, batch_size=16, texts=bundle)
    tokenizer, model = load_tokenizer(str(knowing)), load_model(knowing)
    encoded = [encode_row(row, tokenizer, TextFormat(), eos=False).input_ids for row in bundle.forget.score]
    with torch.no_grad():
        last = torch.stack([model.model(torch.tensor([ids[:-1]])).last_hidden_state[0, -1] for ids in encoded]).mean(0)
        model.lm_head.weight[sorted({ids[-1] for ids in encoded})] -= 18 * last / (last @ last)
    model.save_pretrained(hiding)
    tokenizer.save_pretrained(hiding)
