"""Made-up videos to train a small model on: a camera moves over photos and painted pictures, with objects in front.

A scene is a few flat layers at different depths. The camera pans, zooms, turns and shakes, so that near layers move
more than far ones (parallax), and objects pass in front. Pictures are crops of the photos that come with
scikit-image, "dead leaves" (overlapping discs and polygons of every size, with the statistics of natural pictures:
Lee, Mumford and Huang 2001; Achddou et al. 2021 trained on them), soft gradients and printed text. Every frame is a
function of (index, frame number), and only the requested size is rendered: an element takes a few milliseconds.
"""

import dataclasses
import functools
import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np

from star_jax.data.rng import generator
from star_jax.errors import InputError

# These are in scikit-image's wheel, without a download; all are public domain, CC0 or without known restrictions.
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
    "rocket.jpg",
)
HELD_OUT_PHOTO = "chelsea.png"  # photo of the sample clip; never in a training scene

# Shares of photos, dead leaves, gradients and printed text.
_KINDS, _KINDS_WITH_PHOTOGRAPHS = (0.55, 0.3, 0.08, 0.07), (0.75, 0.13, 0.05, 0.07)
_MARGIN = 0.35  # a layer's picture is larger than the frame by this share on each side
_LARGEST_SCALE = 1.3  # limit of the draw; about a quarter of the crops get a scale of exactly 1
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:-+ "


@dataclasses.dataclass(frozen=True)
class SceneVideo:
    """A made-up video with the reading interface of a VideoReader.

    Attributes:
      index: number of the scene.
      height, width: size in pixels.
      num_frames: length.
      photo: file name of the far layer's picture (one of scikit-image's); None draws a picture.
      photos: the photos to crop: file names of scikit-image's photos, and absolute paths of others.
    """

    index: int
    height: int
    width: int
    num_frames: int = 32
    photo: str | None = None
    photos: tuple[str, ...] = PHOTOS

    def read(self, start: int, count: int, stride: int) -> np.ndarray:
        """Renders frames start, start + stride, ...

        Returns:
          uint8 [count, height, width, 3].

        Raises:
          ValueError: the range leaves the video.
          InputError: scikit-image is not installed.
        """
        if start < 0 or start + (count - 1) * stride >= self.num_frames:
            raise ValueError(f"frames {start} + {count} x {stride} leave a video of {self.num_frames} frames")
        scene = _scene(self)
        return np.stack([scene.render(start + index * stride) for index in range(count)])


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Motion of the camera or an object: pan (pixels), turn (radians) and log zoom per frame, and a small shake."""

    pan: np.ndarray
    turn: float
    zoom: float
    shake: np.ndarray  # [2, 3]: amplitude, frequency, phase of each axis

    def at(self, time: float, depth: float) -> tuple[np.ndarray, float, float]:
        """Shift (pixels), angle and scale at a time (frames from the middle); `depth` 1 is far, more is near."""
        amplitude, frequency, phase = self.shake.T
        shift = self.pan * time + amplitude * np.sin(frequency * time + phase)
        return shift * depth, self.turn * time, float(np.exp(self.zoom * time * depth))


_STILL = _Motion(np.zeros(2), 0.0, 0.0, np.zeros((2, 3)))


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A picture float32 [h, w, 3] (0..255) and its opacity [h, w] (0..1), which is None for the far layer."""

    picture: np.ndarray
    cover: np.ndarray | None
    depth: float
    place: np.ndarray  # (x, y) of its centre, in pixels from the frame's centre
    motion: _Motion


@dataclasses.dataclass(frozen=True)
class _Scene:
    height: int
    width: int
    num_frames: int
    camera: _Motion
    layers: tuple[_Layer, ...]

    def render(self, number: int) -> np.ndarray:
        time = number - self.num_frames / 2
        frame = np.zeros((self.height, self.width, 3), np.float32)
        for layer in self.layers:
            matrix = self._matrix(layer, time)
            if layer.cover is None:
                frame = self._warp(layer.picture, matrix, cv2.BORDER_REFLECT_101)
            else:
                cover = self._warp(layer.cover, matrix, cv2.BORDER_CONSTANT)[..., None]
                frame += (self._warp(layer.picture, matrix, cv2.BORDER_REFLECT_101) - frame) * cover
        return np.clip(np.rint(frame), 0, 255).astype(np.uint8)

    def _matrix(self, layer: _Layer, time: float) -> np.ndarray:
        """Affine map from frame to picture coordinates, [2, 3]."""
        shift, angle, scale = self.camera.at(time, layer.depth)
        own_shift, own_angle, own_scale = layer.motion.at(time, 1.0)
        angle, scale = angle + own_angle, scale * own_scale
        linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        centre = np.array([self.width, self.height]) / 2
        middle = np.array(layer.picture.shape[1::-1]) / 2
        offset = middle - linear @ (centre + layer.place + shift + own_shift)
        return np.column_stack([linear, offset])

    def _warp(self, image: np.ndarray, matrix: np.ndarray, border: int) -> np.ndarray:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, (self.width, self.height), flags=flags, borderMode=border)


@functools.lru_cache(maxsize=4)
def _scene(video: SceneVideo) -> _Scene:
    rng = generator(0, "scene", video.index)
    size = (video.height, video.width)
    height, width = (round(length * (1 + 2 * _MARGIN)) for length in size)
    layers = [
        _Layer(
            _soften(_picture(height, width, rng, video.photos, video.photo), rng),
            None,
            1.0,
            np.zeros(2),
            _STILL,
        )
    ]
    for depth in np.sort(rng.uniform(1.2, 3.0, rng.choice(4, p=(0.3, 0.35, 0.25, 0.1)))):
        extent = int(rng.uniform(0.25, 0.9) * min(size))
        layers.append(
            _Layer(
                _soften(_picture(extent, extent, rng, video.photos), rng),
                _outline(extent, rng),
                float(depth),
                rng.uniform(-0.5, 0.5, 2) * size[::-1],
                _object_motion(rng),
            )
        )
    shake = np.array([[rng.uniform(0, 1.0), rng.uniform(0.1, 0.9), rng.uniform(0, 6.3)] for _ in range(2)])
    camera = _Motion(_velocity(rng, _pace(rng)), rng.normal() * 0.003, rng.normal() * 0.003, shake)
    return _Scene(*size, video.num_frames, camera, tuple(layers))


def _object_motion(rng: np.random.Generator) -> _Motion:
    pace = _pace(rng)
    return _Motion(_velocity(rng, 1.5 * pace), rng.normal() * 0.01 * pace, 0.0, np.zeros((2, 3)))


def _pace(rng: np.random.Generator) -> float:
    """Speed in pixels per frame: from nearly still to too fast for averaging frames, like a galloping horse."""
    return float(np.exp(rng.uniform(np.log(0.3), np.log(10.0))))


def _velocity(rng: np.random.Generator, largest: float) -> np.ndarray:
    """A velocity in a random direction, with a speed between a tenth of `largest` and `largest`."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.0) * largest
    return speed * np.array([np.cos(angle), np.sin(angle)])


def _soften(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leaves half of the pictures as they are; others become a little soft, like films, or out of focus."""
    kind = rng.random()
    if kind < 0.5:
        return picture.astype(np.float32)
    sigma = rng.uniform(0.4, 1.2) if kind < 0.85 else rng.uniform(1.5, 5.0)
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)


def _picture(
    height: int, width: int, rng: np.random.Generator, photos: tuple[str, ...], photo: str | None = None
) -> np.ndarray:
    """A picture of a drawn kind, float32 [height, width, 3]."""
    if photo is not None:
        return _photo_crop(photo, height, width, rng, plain=True)
    kind = rng.choice(4, p=_KINDS if photos == PHOTOS else _KINDS_WITH_PHOTOGRAPHS)
    if kind == 0:
        return _photo_crop(photos[rng.integers(len(photos))], height, width, rng)
    if kind == 1:
        return _dead_leaves(height, width, rng, photos)
    if kind == 2:
        return _gradient(height, width, rng, photos)
    return _print(height, width, rng, photos)


@functools.lru_cache(maxsize=128)
def load_photo(name: str) -> np.ndarray:
    """Loads a photo, uint8 [H, W, 3].

    Args:
      name: an absolute path, or the name of a photo in scikit-image.

    Raises:
      InputError: scikit-image or the photo is missing, or the photo cannot be read.
    """
    if os.path.isabs(name):
        image = cv2.imread(name, cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise InputError(f"cannot read the photo {name}; remove it from the folder")
        return image
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise InputError("scenes are made of scikit-image's photos; install it: pip install scikit-image")
    path = Path(package.submodule_search_locations[0]) / "data" / name
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"this scikit-image has no photo {path}; install version 0.25 or newer")
    return image


def _photo_crop(
    name: str, height: int, width: int, rng: np.random.Generator, *, plain: bool = False
) -> np.ndarray:
    """A crop at a random scale; turned, mirrored and tinted at random unless `plain`.

    It is enlarged only if the photo is too small.
    """
    image = load_photo(name)
    smallest = max(height / image.shape[0], width / image.shape[1])
    if plain:
        scale = smallest
    else:
        if rng.random() < 0.5:
            image = np.rot90(image)
            smallest = max(height / image.shape[0], width / image.shape[1])
        image = image[:, ::-1] if rng.random() < 0.5 else image
        drawn = np.exp(rng.uniform(np.log(np.clip(smallest, 0.25, _LARGEST_SCALE)), np.log(_LARGEST_SCALE)))
        scale = max(smallest, min(1.0, drawn))
    top, left = (
        int(rng.random() * max(0, have - want / scale))
        for have, want in zip(image.shape[:2], (height, width), strict=True)
    )
    crop = image[top : top + int(np.ceil(height / scale)), left : left + int(np.ceil(width / scale))]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    crop = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=mode).astype(np.float32)
    return crop if plain else _tint(crop, rng)


def _tint(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure, white balance and saturation; sometimes the channels change places."""
    if rng.random() < 0.3:
        picture = picture[..., rng.permutation(3)]
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * rng.uniform(0.3, 1.4)
    picture = 255 * (np.clip(picture, 0, 255) / 255) ** np.exp(rng.uniform(-0.5, 0.5))
    gain, offset = rng.uniform(0.6, 1.15) * rng.uniform(0.85, 1.15, 3), rng.uniform(-15, 40)
    return np.clip(picture * gain + offset, 0, 255).astype(np.float32)


def _colour(rng: np.random.Generator, photos: tuple[str, ...], photo: str | None = None) -> np.ndarray:
    """A colour from the given photo, or from any of the photos if none is given; sometimes any colour at all."""
    if rng.random() < 0.15:
        return rng.uniform(0, 255, 3)
    image = load_photo(photo or photos[rng.integers(len(photos))])
    pixel = image[rng.integers(image.shape[0]), rng.integers(image.shape[1])].astype(np.float64)
    return np.clip(pixel * rng.uniform(0.7, 1.3) + rng.normal(size=3) * 12, 0, 255)


def _dead_leaves(height: int, width: int, rng: np.random.Generator, photos: tuple[str, ...]) -> np.ndarray:
    """Overlapping discs and polygons, largest at the bottom; the density of radii falls with the third power."""
    canvas = _gradient(height, width, rng, photos)
    largest = 0.4 * min(height, width)
    smallest = rng.uniform(1.5, 6.0)
    count = int(rng.uniform(60, 260))
    share = rng.random(count)
    radii = np.sort((smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5)[::-1]
    photo = photos[rng.integers(len(photos))]  # all shapes take their colours from one photo
    palette = [_colour(rng, photos, photo) for _ in range(12)]
    for radius in radii:
        colour = np.clip(
            palette[rng.integers(len(palette))] + rng.normal() * 20 + rng.normal(size=3) * 6, 0, 255
        ).tolist()
        centre = rng.uniform((0, 0), (width, height))
        cv2.fillPoly(canvas, [_polygon(centre, radius, rng)], colour, cv2.LINE_AA, shift=4)
    if rng.random() < 0.5:
        canvas += _grain(height, width, rng)
    return np.clip(canvas, 0, 255)


def _polygon(centre: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """An ellipse or a ragged polygon, in sixteenths of a pixel."""
    if rng.random() < 0.6:
        angles, stretch = np.linspace(0, 2 * np.pi, 24, endpoint=False), rng.uniform(0.4, 1.0)
        points = np.column_stack([np.cos(angles), stretch * np.sin(angles)])
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = np.column_stack([np.cos(angles), np.sin(angles)]) * rng.uniform(0.5, 1.0, (len(angles), 1))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return ((centre + radius * points @ rotation.T) * 16).astype(np.int32)


def _grain(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Texture of one grain size, the same in all channels: float32 [height, width, 1]."""
    cell = rng.uniform(1.0, 6.0)
    noise = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return rng.uniform(3, 18) * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _gradient(height: int, width: int, rng: np.random.Generator, photos: tuple[str, ...]) -> np.ndarray:
    """Four to sixteen colours, blended smoothly."""
    rows, columns = rng.integers(2, 5, 2)
    base = _colour(rng, photos)
    grid = base + rng.normal(size=(rows, columns, 3)) * rng.uniform(5, 45)
    return cv2.resize(
        np.clip(grid, 0, 255).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )


def _print(height: int, width: int, rng: np.random.Generator, photos: tuple[str, ...]) -> np.ndarray:
    """Lines of letters on a soft background, as on signs, subtitles and pages."""
    canvas = _gradient(height, width, rng, photos).astype(np.uint8)  # putText draws on uint8 only
    scale, font = rng.uniform(0.35, 1.6), _FONTS[rng.integers(len(_FONTS))]
    colour, thick = rng.uniform(0, 255, 3).tolist(), max(1, round(scale * rng.uniform(0.8, 2.0)))
    for baseline in np.arange(rng.uniform(10, 30), height, 32 * scale):
        line = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=2 + int(width / (18 * scale))))
        cv2.putText(
            canvas, line, (int(rng.uniform(-10, 20)), int(baseline)), font, scale, colour, thick, cv2.LINE_AA
        )
    return canvas


def _outline(extent: int, rng: np.random.Generator) -> np.ndarray:
    """The opacity of an object: a disc or polygon with a soft or sharp edge, float32 [extent, extent]."""
    cover = np.zeros((extent, extent), np.float32)
    centre = np.full(2, extent / 2)
    cv2.fillPoly(cover, [_polygon(centre, 0.48 * extent, rng)], 1.0, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.5, 2.0))
