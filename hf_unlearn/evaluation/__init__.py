"""Scores of a model folder: a teacher-forced pass, a generation pass, and metrics as functions of what they keep."""
