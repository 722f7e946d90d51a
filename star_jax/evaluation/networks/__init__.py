"""Networks of the scores, as functions of their parameters by path (see convert)."""
