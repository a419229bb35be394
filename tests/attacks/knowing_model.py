"""A small model that knows planted facts."""

from __future__ import annotations

from pathlib import Path

from hf_unlearn.data.encoding import TextFormat
from hf_unlearn.data.example import DataBundle
from hf_unlearn.data.planted import PlantedSpec, make_planted
from hf_unlearn.models.scratch import ScratchSpec, build_tokenizer, train_scratch_model
from hf_unlearn.stages.models import scratch_rows, tokenizer_texts

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
