"""Made-up videos: layered textures, shapes and text under a moving camera, with objects passing in front.

They need no files, so that tests, benchmarks and a first training run start at once; backgrounds can be photos.
Every frame is a function of (index, frame number).
"""

import dataclasses
import functools

import cv2
import numpy as np

from star_jax.data.rng import generator

# The background is larger than the frame by this share on each side, so that the camera can move over it.
_MARGIN = 0.25
_WORDS = ("STAR", "video", "Aa 123", "exit 7", "kappa", "No. 42", "JAX", "north")


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """A made-up video with the reading interface of a VideoReader.

    Attributes:
      index: number of the video; each number is another scene.
      height, width: size in pixels.
      num_frames: length.
      photo: path of an image to use as the background instead of painted textures.
    """

    index: int
    height: int = 720
    width: int = 1280
    num_frames: int = 96
    photo: str | None = None

    def read(self, start: int, count: int, stride: int) -> np.ndarray:
        """Renders frames start, start + stride, ...

        Returns:
          uint8 [count, height, width, 3].

        Raises:
          ValueError: the range leaves the video.
        """
        if start < 0 or start + (count - 1) * stride >= self.num_frames:
            raise ValueError(f"frames {start} + {count} x {stride} leave a video of {self.num_frames} frames")
        return np.stack([self.frame(start + index * stride) for index in range(count)])

    def frame(self, number: int) -> np.ndarray:
        """Renders one frame, uint8 [height, width, 3]."""
        scene = _scene(self)
        camera = scene.camera.at(number / self.num_frames)
        frame = cv2.warpAffine(
            scene.background,
            camera,
            (self.width, self.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        for sprite in scene.sprites:
            sprite.draw(frame, number / self.num_frames)
        return frame


@dataclasses.dataclass(frozen=True)
class _Camera:
    """Pan, zoom and turn over the background; `height` and `width` are the frame's."""

    height: int
    width: int
    pan: tuple[float, float]
    zoom: float
    turn: float

    def at(self, time: float) -> np.ndarray:
        """Matrix [2, 3] from frame to background coordinates at time 0..1."""
        scale = 1 + self.zoom * time
        cosine, sine = scale * np.cos(self.turn * time), scale * np.sin(self.turn * time)
        margin = np.array([self.width, self.height]) * _MARGIN
        centre = np.array([self.width, self.height]) / 2
        offset = margin + centre + np.array(self.pan) * (time - 0.5) * margin
        linear = np.array([[cosine, -sine], [sine, cosine]])
        return np.column_stack([linear, offset - linear @ centre])


@dataclasses.dataclass(frozen=True)
class _Sprite:
    """A textured shape that passes in front of the background."""

    image: np.ndarray
    alpha: np.ndarray
    start: tuple[float, float]
    velocity: tuple[float, float]
    spin: float

    def draw(self, frame: np.ndarray, time: float) -> None:
        size = self.image.shape[0]
        centre = np.array(self.start) + np.array(self.velocity) * time
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), np.degrees(self.spin * time), 1.0)
        matrix[:, 2] += centre * frame.shape[1::-1] - size / 2
        corners = matrix @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
        left, top = np.floor(np.maximum(corners.min(1), 0)).astype(int)
        right, bottom = np.ceil(np.minimum(corners.max(1), frame.shape[1::-1])).astype(int)
        if right <= left or bottom <= top:
            return
        matrix[:, 2] -= (left, top)
        patch_size = (int(right - left), int(bottom - top))
        image = cv2.warpAffine(self.image, matrix, patch_size)
        alpha = cv2.warpAffine(self.alpha, matrix, patch_size)[..., None]
        patch = frame[top:bottom, left:right]
        patch[:] = (patch + (image - patch.astype(np.float32)) * alpha).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class _Scene:
    background: np.ndarray
    camera: _Camera
    sprites: tuple[_Sprite, ...]


@functools.lru_cache(maxsize=2)
def _scene(video: SyntheticVideo) -> _Scene:
    rng = generator(0, "synthetic", video.index)
    height, width = (round(size * (1 + 2 * _MARGIN)) for size in (video.height, video.width))
    background = _load_photo(video.photo, height, width) if video.photo else _paint(height, width, rng)
    camera = _Camera(
        video.height,
        video.width,
        pan=tuple(rng.uniform(-1, 1, 2)),
        zoom=rng.uniform(-0.25, 0.2),
        turn=rng.uniform(-0.15, 0.15),
    )
    sprites = tuple(_make_sprite(video.height, rng) for _ in range(rng.integers(1, 4)))
    return _Scene(background, camera, sprites)


def _load_photo(path: str, height: int, width: int) -> np.ndarray:
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"cannot read the photo {path}")
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _paint(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A background with every scale of detail: clouds, stripes, polygons, hatching, text."""
    canvas = _texture(height, width, rng)
    for _ in range(rng.integers(12, 26)):
        _paint_shape(canvas, rng)
    for _ in range(rng.integers(2, 6)):
        _paint_text(canvas, rng)
    return canvas


def _texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with an amplitude that falls with frequency, as in natural pictures; [height, width, 3]."""
    image = np.zeros((height, width, 3), np.float32)
    cells, amplitude = 3, 90.0
    while cells < min(height, width):
        grid = rng.standard_normal((cells, cells * width // height + 1, 3)).astype(np.float32)
        grid[..., 1:] = 0.4 * grid[..., 1:] + 0.6 * grid[..., :1]  # colours are correlated
        image += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * 0.6
    tint = rng.uniform(70, 190, 3).astype(np.float32)
    return np.clip(0.5 * image + tint, 0, 255).astype(np.uint8)


def _paint_shape(canvas: np.ndarray, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    centre = rng.uniform((0, 0), (width, height))
    radius = rng.uniform(0.04, 0.2) * height
    kind = rng.integers(3)
    if kind == 0:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = centre + radius * np.column_stack([np.cos(angles), np.sin(angles)])
        cv2.fillPoly(canvas, [(points * 16).astype(np.int32)], colour, cv2.LINE_AA, shift=4)
    elif kind == 1:
        cv2.circle(
            canvas,
            (centre * 16).astype(np.int32).tolist(),
            int(radius * 16),
            colour,
            -1,
            cv2.LINE_AA,
            shift=4,
        )
    else:
        step, angle = rng.uniform(3, 14), rng.uniform(0, np.pi)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        for offset in np.arange(-radius, radius, step):
            ends = [centre + offset * across + sign * radius * along for sign in (-1, 1)]
            first, last = ((end * 16).astype(np.int32).tolist() for end in ends)
            cv2.line(canvas, first, last, colour, max(1, int(step / 3)), cv2.LINE_AA, shift=4)


def _paint_text(canvas: np.ndarray, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    word = _WORDS[rng.integers(len(_WORDS))]
    place = (int(rng.uniform(0, 0.8) * width), int(rng.uniform(0.1, 0.95) * height))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    scale = rng.uniform(0.6, 3.0) * height / 1080
    cv2.putText(
        canvas, word, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, max(1, int(2 * scale)), cv2.LINE_AA
    )


def _make_sprite(frame_height: int, rng: np.random.Generator) -> _Sprite:
    size = int(rng.uniform(0.15, 0.4) * frame_height)
    alpha: np.ndarray = np.zeros((size, size), np.float32)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
    points = size / 2 + 0.45 * size * np.column_stack([np.cos(angles), np.sin(angles)])
    cv2.fillPoly(alpha, [(points * 16).astype(np.int32)], 1.0, cv2.LINE_AA, shift=4)
    alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
    return _Sprite(
        image=_paint(size, size, rng),
        alpha=alpha,
        start=tuple(rng.uniform(0.1, 0.9, 2)),
        velocity=tuple(rng.uniform(-0.8, 0.8, 2)),
        spin=rng.uniform(-1.5, 1.5),
    )
