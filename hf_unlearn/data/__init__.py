"""Forget, retain, holdout and generic sets: reading them, checking them, tokenizing them once, pairing them."""
