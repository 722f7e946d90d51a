"""Networks that scores are computed with, as functions of their parameters by path (see convert)."""
