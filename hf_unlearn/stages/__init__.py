"""The stages of a run, one file each: train, export, evaluate, attack, verify, publish."""
