"""Model cards, publishing, and loading only what was verified."""
