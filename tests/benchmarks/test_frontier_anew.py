"""What training anew would cost, against a count by hand."""

from __future__ import annotations

import yaml

from benchmarks.frontier.anew import operations_anew
from hf_unlearn.data.encoding import encode_row
from hf_unlearn.models.scratch import build_tokenizer
from hf_unlearn.recipe import load_recipe
from hf_unlearn.stages.data import load_bundle

SCRATCH = {"hidden_size": 16, "intermediate_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vocab_size": 300}
RECIPE = {
    "name": "anew",
    "model": {"scratch": {**SCRATCH, "epochs": 3}},
    "data": {"planted": {"forget": 6, "retain": 8, "practice": 4, "holdout": 4, "generic": 5}},
    "methods": [{"name": "npo", "loss_type": "npo", "learning_rate": 1e-3, "max_steps": 1}],
}


def test_every_row_but_the_forgotten_ones_counts_as_often_as_it_is_seen(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    recipe = load_recipe(path)
    bundle, spec = load_bundle(recipe), recipe.model.scratch
    sets = (bundle.forget, bundle.retain, bundle.holdout, bundle.practice, bundle.generic)
    texts = [
        text for rows in sets for row in rows for text in (row.text, *(row.prompt + each for each in row.choices))
    ]
    tokenizer = build_tokenizer(texts, spec)
    learned = [*bundle.retain.train, *bundle.practice.train, *bundle.generic.train]
    tokens = sum(
        len(encode_row(row, tokenizer, recipe.data.format.text_format(), eos=True).input_ids) for row in learned
    )
    attention, mlp, norms, head = 2 * 16 * 16 + 2 * 16 * 8, 3 * 16 * 32, 3 * 16, 16 * len(tokenizer)
    assert operations_anew(path) == 6 * 3 * tokens * (attention + mlp + norms + head)
    assert len(learned) < len([row for rows in sets for row in rows.train])
