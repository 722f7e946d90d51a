"""Errors that a user can cause; the command line turns each into one line and an exit code."""

import os
import re


class StarError(Exception):
    """Base of the errors below; the message names the value, what was expected, and the remedy."""

    exit_code = 1


class InputError(StarError):
    """Bad input or arguments: nothing was started or written (exit code 2)."""

    exit_code = 2


class RunError(StarError):
    """Failure while running: partial outputs were removed (exit code 1)."""


class DiskError(RunError):
    """The disk is full or refused an operation; the work done before that is worth keeping."""


def first_line(error: BaseException) -> str:
    """The message of an exception as one line, cut after 200 characters."""
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's messages are long
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
