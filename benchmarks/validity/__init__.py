"""The verifier, verified: models and scores whose truth is known beforehand."""
