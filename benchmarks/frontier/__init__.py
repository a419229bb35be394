"""Which method passes which transforms, at which utility and cost."""
