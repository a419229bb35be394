"""What a tuning line keeps of a report."""

from __future__ import annotations

from benchmarks.frontier.kinds import METRICS
from benchmarks.frontier.trial import line_of


def test_a_line_holds_the_shares_under_every_transform_and_the_least_utility():
    def share(transform, value, ends, model="one", metric=METRICS[0]):
        own = {"model": model, "transform": transform, "metric": metric}
        return {**own, "recovered_share": value, "ci95": ends}

    report = {
        "recovered": [
            share("identity", 0.1, [0.0, 0.2]),
            share("rtt", 0.6, None),
            share("rtt", None, None, metric=METRICS[-1]),
            share("rtt", 0.9, [0.8, 1.0], model="other"),
            share("rtt", 0.7, [0.6, 0.8], metric="loss"),
        ],
        "utility": [
            {"model": "one", "ratio": 0.97},
            {"model": "one", "ratio": 0.93},
            {"model": "one", "ratio": None},
            {"model": "other", "ratio": 0.5},
        ],
    }
    shares = {"identity": {METRICS[0]: [0.1, 0.0, 0.2]}, "rtt": {METRICS[0]: [0.6, None, None]}}
    assert line_of(report, "one") == {"shares": shares, "utility": 0.93}
    assert line_of(report, "nobody") == {"shares": {}, "utility": None}
