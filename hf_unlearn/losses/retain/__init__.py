"""Losses on the retain set: what keeps the rest of the model as it was."""
