"""Models themselves: loading, layout of layers, output head, sharding, adapters, memory, models from scratch."""
