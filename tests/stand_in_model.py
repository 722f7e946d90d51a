"""A stand-in for the model, for tests of what lies around it: nothing compiles."""

from collections.abc import Iterator

import numpy as np

PIECE = 3


class StandIn:
    """Enlarges frames, and mixes the mean of what it takes for one clip into each, so that bleeding shows."""

    def __init__(self):
        self.sampled: list[int] = []
        self.decoded = 0
        self.fails_after: float = np.inf
        self.error: BaseException = KeyboardInterrupt()

    def stream(
        self, read, num_frames, size, settings, *, on_progress, kept, skip, read_colors=None
    ) -> Iterator[np.ndarray]:
        """See `StarPipeline.stream`."""
        clip = np.concatenate(list(read(PIECE)))
        assert len(clip) == num_frames and clip.shape[1:3] == size
        self.sampled.append(num_frames)
        on_progress("encode", num_frames, num_frames)
        on_progress("sample", 1, 1)
        mean = clip.mean((0, 1, 2))
        for number, piece in enumerate(read(PIECE)):
            if number * PIECE < skip:
                continue
            if self.decoded >= self.fails_after:
                raise self.error
            self.decoded += 1
            large = piece.repeat(2, 1).repeat(2, 2)
            yield (large / 2 + mean / 2).astype(np.uint8)
