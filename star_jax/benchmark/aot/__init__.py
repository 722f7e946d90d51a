"""Programs compiled ahead of time for TPUs that are not there: do they fit, what do they compute and exchange."""
