"""What the loop is doing, and how much of its time went into what."""

import time

# Stages of the loop, and the name of each one's share of the time in the metrics.
SHARES = {
    "starting": "start_share",
    "waiting for data": "data_wait_share",
    "computing": "goodput",
    "validating": "validation_share",
    "saving": "save_share",
}


class Stages:
    """Times the stages since the start of this process's run.

    Attributes:
      current: stage and step that are under way.
      since: when they began, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.current, self.since = ("starting", 0), time.monotonic()
        self._seconds = dict.fromkeys(SHARES, 0.0)

    def at(self, stage: str, step: int) -> None:
        """Notes what the loop begins to do now (a key of SHARES), for which step."""
        now = time.monotonic()
        self._seconds[self.current[0]] += now - self.since
        self.current, self.since = (stage, step), now

    def shares(self) -> dict[str, float]:
        """Share of the time so far of each stage, 0 to 1; goodput is that of the steps themselves."""
        seconds = dict(self._seconds)
        seconds[self.current[0]] += time.monotonic() - self.since
        total = sum(seconds.values())
        return {SHARES[stage]: spent / total for stage, spent in seconds.items()}

    def summary(self) -> str:
        """The same as a line for the log."""
        total = sum(self._seconds.values()) + time.monotonic() - self.since
        shares = {stage: self.shares()[name] for stage, name in SHARES.items()}
        return f"{total:.0f} s: " + ", ".join(f"{share:.1%} {stage}" for stage, share in shares.items())
