"""The stages of the loop, and the share of the time of each."""

import time

# Stage of the loop -> name of the metric with its share of the time.
SHARES = {
    "starting": "start_share",
    "waiting for data": "data_wait_share",
    "computing": "goodput",
    "validating": "validation_share",
    "saving": "save_share",
}


class Stages:
    """Times the stages since this process started or resumed the run.

    Attributes:
      current: (stage, step) at the moment.
      since: time at which it began, from `time.monotonic`.
    """

    def __init__(self) -> None:
        self.current, self.since = ("starting", 0), time.monotonic()
        self._seconds = dict.fromkeys(SHARES, 0.0)

    def at(self, stage: str, step: int) -> None:
        """Enters a stage (a key of SHARES) of a step."""
        now = time.monotonic()
        self._seconds[self.current[0]] += now - self.since
        self.current, self.since = (stage, step), now

    def shares(self) -> dict[str, float]:
        """Share of the time so far of each stage, 0 to 1; goodput is the share of the steps themselves."""
        seconds = dict(self._seconds)
        seconds[self.current[0]] += time.monotonic() - self.since
        total = sum(seconds.values())
        return {SHARES[stage]: spent / total for stage, spent in seconds.items()}

    def summary(self) -> str:
        """The shares as one line for the log."""
        total = sum(self._seconds.values()) + time.monotonic() - self.since
        shares = {stage: self.shares()[name] for stage, name in SHARES.items()}
        return f"{total:.0f} s: " + ", ".join(f"{share:.1%} {stage}" for stage, share in shares.items())
