"""What comes back in a format, beside what comes back under noise of the same size.

A share that is large on the grid and small under its noise was erased by the grid's bins; one that is as large under
noise is fragile: any disturbance of that size brings it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .recovered import RecoveredRow

# Name of a weight noise transform: its grid, and the number of the draw.
NOISE_NAME = re.compile(r"noise-(?P<grid>.+)-(?P<draw>\d+)")


def fragility_rows(recovered: Sequence[RecoveredRow], grids: Mapping[str, str]) -> list[dict[str, Any]]:
    """Recovered shares of formats beside those of noise as large as their error.

    Args:
        recovered: Rows of all judged models.
        grids: Format to its grid.

    Returns:
        Rows of the report: for every model, metric and format that has a noise transform, the format's share and mean,
        least and largest share over the draws.
    """
    shares = {(row.model, row.metric, row.transform): row.recovered.value for row in recovered}
    rows = []
    for (model, metric, transform), share in shares.items():
        grid = grids.get(transform)
        if grid is None or share is None:
            continue
        draws = [
            value
            for (other, other_metric, name), value in shares.items()
            if (other, other_metric) == (model, metric) and value is not None and _grid_of_noise(name) == grid
        ]
        if draws:
            rows.append(
                {
                    "model": model,
                    "metric": metric,
                    "format": transform,
                    "grid": grid,
                    "recovered_share": share,
                    "noise_share": sum(draws) / len(draws),
                    "noise_range": [min(draws), max(draws)],
                    "draws": len(draws),
                }
            )
    return rows


def _grid_of_noise(transform: str) -> str | None:
    found = NOISE_NAME.fullmatch(transform)
    return found["grid"] if found else None
