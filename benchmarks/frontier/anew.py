"""What training anew without the facts would cost: the sure way, as long as a model is small."""

from __future__ import annotations

from pathlib import Path


def operations_anew(recipe_path: Path) -> int:
    """Floating-point operations of training a cell's never-knew model.

    Counted as transformers counts a training run (6 times the parameters that are no embeddings, for each token), but
    without padding.

    Args:
        recipe_path: The cell's recipe.
    """
    from hf_unlearn.data.encoding import encode_row
    from hf_unlearn.models.scratch import build_tokenizer, new_model
    from hf_unlearn.recipe import load_recipe
    from hf_unlearn.stages.data import load_bundle
    from hf_unlearn.stages.models import scratch_rows, tokenizer_texts

    recipe = load_recipe(recipe_path)
    spec, bundle = recipe.model.scratch, load_bundle(recipe)
    assert spec is not None  # every cell's models are trained from nothing
    tokenizer = build_tokenizer(tokenizer_texts(bundle), spec)
    rows = scratch_rows(bundle, with_forget=False, with_extra=recipe.data.extra_is_known)
    tokens = sum(len(encode_row(row, tokenizer, recipe.data.format.text_format(), eos=True).input_ids) for row in rows)
    return 6 * spec.epochs * tokens * new_model(spec, tokenizer).num_parameters(exclude_embeddings=True)
