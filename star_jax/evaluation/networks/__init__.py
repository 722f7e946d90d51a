"""Networks that scores are computed with, as functions of their parameters: path -> array, as convert writes them."""
