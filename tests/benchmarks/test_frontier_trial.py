"""What a tuning line keeps of a report."""

from __future__ import annotations

from benchmarks.frontier.kinds import METRICS
from benchmarks.frontier.outcome import JUDGED
from benchmarks.frontier.trial import line_of
from benchmarks.frontier.tried import configurations, page


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


def test_a_try_without_a_share_is_still_in_the_table():
    method = {"name": "one", "save_strategy": "no", "robust": "auto", "learning_rate": 1e-3}
    shares = {"identity": {metric: [0.25, 0.1, 0.4] for metric in JUDGED}}
    tried = {"kind": "years", "seed": 100, "folds": 2, "method": method, "shares": shares, "utility": 0.98}
    last = page([tried, {**tried, "data": {"rows": "exchanged"}}]).splitlines()[-1]
    assert (
        last
        == "| years | 100 | 2 | `robust: auto, learning_rate: 0.001, rows: exchanged` | 0.25 | 0.25 | – | – | 0.98 |"
    )
    assert configurations([tried, tried, {**tried, "data": {"rows": "exchanged"}}]) == 2
