"""What the commands that run long write to standard error."""

import logging


def log_to_stderr() -> None:
    """This project's messages from INFO on, everybody else's from WARNING on."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("star_jax").setLevel(logging.INFO)
