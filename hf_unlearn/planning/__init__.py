"""What a run will take, before it starts: pure functions of a configuration, rows and settings. No weights are read."""
