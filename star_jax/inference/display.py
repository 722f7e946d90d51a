"""What a user sees while an upscale runs."""

import contextlib

from star_jax.progress import progress

STAGES = {"encode": ("Encoding", "frames"), "sample": ("Sampling", "steps"), "decode": ("Decoding", "frames")}


class StageBars:
    """One progress bar after the other, as the pipeline goes from stage to stage."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self.stage, self.done = None, 0
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "StageBars":
        return self

    def __exit__(self, *error) -> None:
        self.stack.__exit__(*error)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stack.close()
            label, unit = STAGES[stage]
            self.bar = self.stack.enter_context(progress(label, total, unit, quiet=self.quiet))
            self.stage, self.done = stage, 0
        self.bar.advance(done - self.done)
        self.done = done
