"""Comparisons with published code, one source a file; ``score_agreement.py`` runs them."""
