"""When a learning rate is hopeless: it brings nothing back any more, or never did."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.records import ScoredRow
from ..evaluation.summary import fact_scores

LEAST_GAIN = 0.005


class Patience:
    """Watches the scores of one job, epoch by epoch.

    A gain is a metric whose mean over facts is more than 0.005 above its best so far. Rates that are too timid and
    rates that have broken the model both stop gaining; what is lost by giving up is at most what so slow a climb would
    still have brought.

    Args:
        limit: Epochs in a row without gain after which the rate is given up; 0 never gives up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._best: dict[str, float] = {}
        self._idle = 0

    def gains(self, records: Sequence[ScoredRow]) -> bool:
        """Take the next epoch's scores; whether it is worth going on."""
        means = {metric: scores.mean for (_, metric), scores in fact_scores(records).items()}
        gained = [name for name, mean in means.items() if mean > self._best.get(name, -1.0) + LEAST_GAIN]
        for name in gained:
            self._best[name] = means[name]
        self._idle = 0 if gained else self._idle + 1
        return not self._limit or self._idle < self._limit
