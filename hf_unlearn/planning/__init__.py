"""What a run will take: pure functions of a configuration, rows and settings. No weights are read."""
