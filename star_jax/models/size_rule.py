"""Heights, widths and numbers of frames that a model takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeRule:
    """The sizes of clips that a model takes; its configuration decides them.

    Heights are `offset[0]` plus multiples of `step`, widths `offset[1]` plus multiples of it, and numbers of frames
    one more than multiples of `frame_step`.

    Attributes:
      pixels_per_latent: along height and along width.
      step: pixels between one size that the network takes and the next.
      offset: remainders of (height, width) modulo `step`.
      frames_per_latent: frames per latent, except for the first latent, which stands for one frame.
      frame_step: frames between one length that the model takes and the next.
      least_frames: the shortest length.
      only_tile: (height, width) in pixels of what the network takes, if it takes nothing else: smaller frames are
        padded to it, larger ones cut into tiles of it.
    """

    pixels_per_latent: int
    step: int
    offset: tuple[int, int] = (0, 0)
    frames_per_latent: int = 1
    frame_step: int = 1
    least_frames: int = 1
    only_tile: tuple[int, int] | None = None

    @property
    def starts_anew(self) -> bool:
        """Whether every window is a clip of its own, whose first latent stands for one frame."""
        return self.frames_per_latent > 1

    @property
    def alignment(self) -> int:
        """Latents between the starts of two tiles, and between one size of a tile and the next."""
        return self.step // self.pixels_per_latent

    @property
    def least_tile(self) -> tuple[int, int]:
        """(height, width) in pixels of the smallest tile: the first size above the offset.

        The offset alone is too little: a network that halves its latents again and again would have nothing left.
        """
        return self.only_tile or (self.offset[0] + self.step, self.offset[1] + self.step)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The next (height, width) in pixels that the network takes, in tiles or at once."""
        height, width = (
            max(least, side + (offset - side) % self.step)
            for side, offset, least in zip((height, width), self.offset, self.least_tile, strict=True)
        )
        return height, width

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels, of at least a step, that the network takes and that is nearest."""
        height, width = (
            offset + self.step * max(1, round((side - offset) / self.step))
            for side, offset in zip((height, width), self.offset, strict=True)
        )
        return height, width

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the latents of frames of (height, width) pixels."""
        return height // self.pixels_per_latent, width // self.pixels_per_latent

    def padded_frames(self, num_frames: int) -> int:
        """The next number of frames that the model takes."""
        return max(self.least_frames, num_frames + (1 - num_frames) % self.frame_step)

    def num_latents(self, num_frames: int) -> int:
        """Number of latents along time of `num_frames` frames, padded to a length that the model takes."""
        return (self.padded_frames(num_frames) - 1) // self.frames_per_latent + 1

    def latents_before(self, frame: int) -> int:
        """Number of latents that stand for the frames before a chunk, or a window, that begins at `frame`."""
        return (frame - 1) // self.frames_per_latent + 1

    def num_frames(self, num_latents: int) -> int:
        """Frames that `num_latents` latents along time stand for."""
        return (num_latents - 1) * self.frames_per_latent + 1
