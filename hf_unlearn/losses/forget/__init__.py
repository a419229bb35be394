"""Losses on the forget set: what pushes the knowledge out."""
