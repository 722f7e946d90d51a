"""Errors that a user can cause; the command line turns each into one line and an exit code."""


class StarError(Exception):
    """Base of the errors below; the message names the value, what was expected, and the remedy."""

    exit_code = 1


class InputError(StarError):
    """Bad input or arguments: nothing was started or written (exit code 2)."""

    exit_code = 2


class RunError(StarError):
    """Failure while running: partial outputs were removed (exit code 1)."""
