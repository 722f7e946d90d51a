"""Heights, widths and numbers of frames that a model takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeRule:
    """The sizes of clips that a model takes, which follow from its configuration.

    Heights are `offset[0]` plus a multiple of `step`, widths are `offset[1]` plus a multiple of `step`, and numbers
    of frames are 1 plus a multiple of `frame_step`.

    Attributes:
      pixels_per_latent: pixels per latent along height and along width.
      step: pixels between one size that the network takes and the next.
      offset: remainders of (height, width) modulo `step`.
      frames_per_latent: frames per latent, except for the first latent, which stands for one frame.
      frame_step: frames between one length that the model takes and the next.
      least_frames: the shortest length.
      only_tile: (height, width) in pixels if the network takes only one size: smaller frames are padded to it, and
        larger ones are cut into tiles of it.
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
        """Whether every window is treated as a separate clip, whose first latent stands for one frame."""
        return self.frames_per_latent > 1

    @property
    def alignment(self) -> int:
        """Latents between the starts of two tiles, and between one size of a tile and the next."""
        return self.step // self.pixels_per_latent

    @property
    def least_tile(self) -> tuple[int, int]:
        """(height, width) in pixels of the smallest tile: the first size above the offset.

        The offset alone is too small: a network that halves its latents several times would have nothing left.
        """
        return self.only_tile or (self.offset[0] + self.step, self.offset[1] + self.step)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The next larger (height, width) in pixels that the network takes, at once or in tiles."""
        height, width = (
            max(least, side + (offset - side) % self.step)
            for side, offset, least in zip((height, width), self.offset, self.least_tile, strict=True)
        )
        return height, width

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The nearest (height, width) in pixels, of at least one step, that the network takes."""
        height, width = (
            offset + self.step * max(1, round((side - offset) / self.step))
            for side, offset in zip((height, width), self.offset, strict=True)
        )
        return height, width

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the latents of frames of (height, width) pixels."""
        return height // self.pixels_per_latent, width // self.pixels_per_latent

    def padded_frames(self, num_frames: int) -> int:
        """The next larger number of frames that the model takes, or `num_frames` itself."""
        return max(self.least_frames, num_frames + (1 - num_frames) % self.frame_step)

    def num_latents(self, num_frames: int) -> int:
        """Number of latents along time for `num_frames` frames, padded to a length that the model takes."""
        return (self.padded_frames(num_frames) - 1) // self.frames_per_latent + 1

    def latents_before(self, frame: int) -> int:
        """Number of latents that stand for the frames before a chunk or window that begins at `frame`."""
        return (frame - 1) // self.frames_per_latent + 1

    def num_frames(self, num_latents: int) -> int:
        """Number of frames that `num_latents` latents along time stand for."""
        return (num_latents - 1) * self.frames_per_latent + 1
