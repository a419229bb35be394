"""Is it really gone? Recovered shares with intervals, controls, verdict, report and digests. No torch here."""
