"""A draw in which everything comes as often as its weight says, give or take one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping


def systematic_draw(weights: Mapping[int, float], size: int, draw: random.Random) -> list[int]:
    """Draw with replacement, evenly: ``size`` times its share of the weights, rounded up or down, in random order.

    Args:
        weights: By name; above 0.
        size: How many are drawn.
        draw: Decides where is rounded up, and the order.
    """
    order = draw.sample(sorted(weights), len(weights))
    whole = math.fsum(weights.values())
    drawn: list[int] = []
    start, reached = draw.random(), 0.0
    for name in order:
        reached += size * weights[name] / whole
        while len(drawn) < size and start + len(drawn) < reached:
            drawn.append(name)
    drawn += order[-1:] * (size - len(drawn))  # only by a rounding error
    draw.shuffle(drawn)
    return drawn
