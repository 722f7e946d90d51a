"""Pictures with all that belongs to them: transparency, depth, profiles, EXIF; animations; names and sizes."""

import os
import subprocess
from fractions import Fraction

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageCms
from sample_videos import moving_frames, pass_through, shown

from star_jax.errors import InputError
from star_jax.inference.settings import UpscaleSettings
from star_jax.video.images import is_still, open_source
from star_jax.video.outputs import check_output_path, is_pattern
from star_jax.video.pictures import read_picture

FRAMES = moving_frames(6, 64, 48)


def test_transparency_is_enlarged_and_what_it_hides_does_not_bleed(tmp_path):
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3], rgba[8:40, 16:48, :3], rgba[8:40, 16:48, 3] = (0, 255, 0), (200, 40, 40), 255
    Image.fromarray(rgba).save(tmp_path / "in.png")
    reader = open_source(tmp_path / "in.png")
    assert reader.info.has_alpha
    assert np.abs(reader.read()[0].astype(int) - (200, 40, 40)).max() <= 2  # no green anywhere
    pass_through(tmp_path / "in.png", tmp_path / "out.png", scale=2)
    with Image.open(tmp_path / "out.png") as out:
        assert (out.mode, out.size) == ("RGBA", (128, 96))
        alpha = np.asarray(out)[..., 3]
    assert alpha[40, 64] == 255 and alpha[4, 4] == 0 and set(np.unique(alpha)) != {0, 255}


def test_transparency_in_a_video_is_named(tmp_path, capsys):
    Image.new("RGBA", (64, 48), (10, 20, 30, 128)).save(tmp_path / "in.png")
    check_output_path(tmp_path / "out.mp4", open_source(tmp_path / "in.png").info)
    assert "transparency is left out; write .png to keep it" in capsys.readouterr().err


def test_profile_and_exif_are_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0132], exif[0x0112] = "2015:06:07 08:09:10", 6  # a date, and a turned camera
    Image.fromarray(FRAMES[0]).save(tmp_path / "in.jpg", icc_profile=profile, exif=exif, quality=95)
    pass_through(tmp_path / "in.jpg", tmp_path / "out.png", scale=2)
    with Image.open(tmp_path / "out.png") as out:
        assert out.info["icc_profile"] == profile and out.size == (96, 128)
        assert out.getexif()[0x0132] == "2015:06:07 08:09:10" and out.getexif().get(0x0112, 1) == 1


def test_sixteen_bits_stay_sixteen(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
    for name in ("in.png", "in.tif"):
        cv2.imwrite(str(tmp_path / name), deep[..., ::-1])
        out = pass_through(tmp_path / name, tmp_path / "out.png")
        np.testing.assert_array_equal(cv2.imread(str(out), cv2.IMREAD_UNCHANGED)[..., ::-1], deep)
    assert open_source(tmp_path / "in.png").read().dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(tmp_path, orientation):
    """With transparency the pixels are turned here, without it by the decoder."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = FRAMES[0]
    alpha = np.full((48, 64, 1), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgb.png", exif=exif)
    Image.fromarray(np.concatenate([pixels, alpha], -1)).save(tmp_path / "rgba.png", exif=exif)
    turned = read_picture(tmp_path / "rgba.png")
    np.testing.assert_array_equal(turned.rgb, read_picture(tmp_path / "rgb.png").rgb)
    assert turned.alpha.shape == turned.rgb.shape[:2] == ((64, 48) if orientation >= 5 else (48, 64))


@pytest.mark.parametrize("name", ["in.webp", "in.png", "in.avif"])
def test_animations_keep_their_times(tmp_path, name):
    durations = [40, 80, 200, 40, 40, 40]
    images = [Image.fromarray(frame) for frame in FRAMES]
    images[0].save(
        tmp_path / name, save_all=True, append_images=images[1:], duration=durations, lossless=True
    )
    assert not is_still(tmp_path / name)
    out = pass_through(tmp_path / name, tmp_path / "out.mp4", scale=2)
    starts = np.cumsum([0, *durations[:-1]]) / 1000
    expected = list(zip(starts.tolist(), np.array(durations) / 1000, strict=True))
    assert np.array(shown(out)) == pytest.approx(np.array(expected), abs=1e-3)
    read = open_source(tmp_path / name).read(2, 2, 3)
    assert np.abs(read.astype(int) - FRAMES[2::3]).mean() < 4
    with pytest.raises(InputError, match="can hold only one of 6 frames"):
        check_output_path(tmp_path / "out.png", open_source(tmp_path / name).info)


def test_pages_of_a_tiff(tmp_path):
    images = [Image.fromarray(frame) for frame in FRAMES]
    images[0].save(tmp_path / "in.tif", save_all=True, append_images=images[1:])
    reader = open_source(tmp_path / "in.tif", frame_rate=Fraction(10))
    assert (reader.info.num_frames, reader.info.frame_rate) == (6, 10)
    np.testing.assert_array_equal(np.concatenate([part for part, _ in reader.chunks(4)]), FRAMES)
    images[0].save(tmp_path / "small.tif", save_all=True, append_images=[images[0].resize((16, 12))])
    assert open_source(tmp_path / "small.tif").info.num_frames == 1  # a picture with a small copy


def test_names_with_percent_signs(tmp_path):
    cv2.imwrite(str(tmp_path / "50%.png"), FRAMES[0])
    pass_through(tmp_path / "50%.png", tmp_path / "50%_x2.png", scale=2)
    assert sorted(os.listdir(tmp_path)) == ["50%.png", "50%_x2.png"]
    assert not is_pattern(tmp_path / "50%.png") and is_pattern(tmp_path / "50%_%04d.png")
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(FRAMES):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), frame)
    pass_through(tmp_path / "in", tmp_path / "out" / "50%_%02d.png")
    assert sorted(os.listdir(tmp_path / "out")) == [f"50%_{number:02d}.png" for number in range(6)]


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    Image.new("1", (40_000, 40_000)).save(tmp_path / "in.png")
    with pytest.raises(
        InputError, match=r"has 40000x40000 pixels, but at most 134 million .*; cut it into parts"
    ):
        open_source(tmp_path / "in.png")


def test_images_of_two_sizes_are_refused_before_any_work(tmp_path):
    for name, size in (("a.png", (64, 48)), ("b.png", (64, 48)), ("c.png", (48, 64))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(
        InputError, match=r"c\.png is 48x64, but the first image is 64x48; all images in a folder"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixels_is_read(tmp_path, mode):
    image = Image.fromarray(FRAMES[0]).convert("L" if mode == "I;16" else mode)
    name = "in.tif" if mode == "CMYK" else "in.png"
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert picture.rgb.shape == (48, 64, 3) and picture.rgb.dtype == np.uint8
    expected = np.asarray(image.convert("RGB")) if mode != "I;16" else None
    if expected is not None and mode != "CMYK":
        assert np.abs(picture.rgb.astype(int) - expected).max() <= 1


def test_images_may_have_odd_sizes_and_videos_even_ones():
    assert UpscaleSettings(scale=3, exact_size=True).target_size(35, 33) == (105, 99)
    assert UpscaleSettings(scale=3).target_size(35, 33) == (104, 100)


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_heic_pictures(tmp_path, heif, mode, capsys):
    image = Image.fromarray(FRAMES[0]).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(FRAMES[0][..., 0]))
    image.save(tmp_path / "in.heic", quality=-1)  # lossless
    out = pass_through(tmp_path / "in.heic", tmp_path / "out.png", scale=2)
    ours = np.asarray(Image.open(out).resize((64, 48), Image.Resampling.BOX)).astype(int)
    assert ours.shape[-1] == len(mode)
    assert np.abs(ours - np.asarray(image))[..., :3].mean() < 3  # 4:2:0 all the same
    two = heif.HeifFile()
    for _ in range(2):
        two.add_from_pillow(image)
    two.save(tmp_path / "two.heic")
    open_source(tmp_path / "two.heic")
    assert (
        f"note: {tmp_path / 'two.heic'} has 2 pictures; only the first is read\n" in capsys.readouterr().err
    )


def test_heic_pictures_of_ten_bits(tmp_path, heif):
    levels = np.linspace(0, 1023, 48 * 64 * 3).reshape(48, 64, 3).round().astype(np.uint16)
    levels[:] = levels[..., :1]  # grey: exact in 4:2:0
    heif.from_bytes("RGB;16", (64, 48), (levels << 6).tobytes()).save(
        tmp_path / "in.heic", quality=-1, bit_depth=10
    )
    reader = open_source(tmp_path / "in.heic", depth=None)
    assert reader.info.bit_depth == 16 and reader.dtype == np.uint16
    found = reader.read()[0] / 65535 * 1023
    assert np.abs(found - levels).max() <= 2
    assert len(np.unique(found.round())) > 600  # no 8-bit step


def test_transparency_of_animations_is_kept_in_images_and_named_for_videos(tmp_path, capsys):
    images = [Image.fromarray(np.dstack([frame, frame[..., 0]])) for frame in FRAMES[:3]]
    for name in ("in.webp", "in.png"):
        images[0].save(
            tmp_path / name, save_all=True, append_images=images[1:], duration=40, lossless=True, exact=True
        )
        pass_through(tmp_path / name, tmp_path / f"{name}.out" / "%02d.png")
        assert capsys.readouterr().err == ""
        for number, image in enumerate(images):
            with Image.open(tmp_path / f"{name}.out" / f"{number:02d}.png") as written:
                np.testing.assert_array_equal(
                    np.asarray(written.getchannel("A")), np.asarray(image.getchannel("A"))
                )
    holes = [image.copy() for image in images]
    for number, image in enumerate(holes):
        image.putalpha(
            Image.fromarray(
                np.where(np.arange(64) < 20 + number, 0, 255)[None].repeat(48, 0).astype(np.uint8)
            )
        )
    holes[0].save(tmp_path / "in.gif", save_all=True, append_images=holes[1:], duration=40, disposal=2)
    pass_through(tmp_path / "in.gif", tmp_path / "gif.out" / "%02d.png")
    for number in range(3):
        with Image.open(tmp_path / "gif.out" / f"{number:02d}.png") as written:
            assert (np.asarray(written.getchannel("A")) == np.asarray(holes[number].getchannel("A"))).all()
    assert capsys.readouterr().err == ""
    pass_through(tmp_path / "in.webp", tmp_path / "out.mp4")
    assert "in.webp: transparency is left out; write folder/%05d.png to keep it" in capsys.readouterr().err


def test_jpeg_xl_is_to_be_converted_to_png(tmp_path):
    source = tmp_path / "photo.jxl"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.04"]
    subprocess.run([*command, "-frames:v", "1", "-c:v", "libjxl", str(source)], check=True)
    with pytest.raises(InputError, match="cannot be decoded; convert it to PNG first"):
        open_source(source)


@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_picture_of_more_than_eight_bits(tmp_path, bits):
    source = tmp_path / "deep.avif"
    ramp = f"nullsrc=s=1024x16:d=0.04,format=gray{bits}le,geq=lum=X*{2**bits // 1024}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", ramp, "-frames:v", "1"]
    command += [
        "-color_range",
        "pc",
        "-c:v",
        "libaom-av1",
        "-cpu-used",
        "8",
        "-crf",
        "0",
        "-still-picture",
        "1",
    ]
    subprocess.run([*command, str(source)], check=True)
    found = open_source(source, depth=None).read()[0, 8, :, 1] / 65535 * (2**bits - 1)
    assert np.abs(found - np.arange(1024) * 2**bits // 1024).max() <= 1
    assert open_source(source).read().dtype == np.uint8


def test_pages_of_a_tiff_keep_sixteen_bits(tmp_path):
    pages = np.random.default_rng(0).integers(0, 65536, (3, 12, 16, 3), dtype=np.uint16)
    cv2.imwritemulti(str(tmp_path / "in.tif"), list(pages[..., ::-1]))
    reader = open_source(tmp_path / "in.tif", depth=None)
    assert reader.info.bit_depth == 16
    np.testing.assert_array_equal(np.concatenate([part for part, _ in reader.chunks(2)]), pages)
    assert open_source(tmp_path / "in.tif").read().dtype == np.uint8


def test_a_tiff_of_floats_gets_advice(tmp_path):
    cv2.imwrite(str(tmp_path / "in.tif"), FRAMES[0].astype(np.float32))
    with pytest.raises(
        InputError, match=r"RGB in floating point\); convert it to a TIFF or PNG with 16 bits"
    ):
        open_source(tmp_path / "in.tif")


def test_damage_inside_a_jpeg_is_one_line(tmp_path, capfd):
    pytest.importorskip("simplejpeg")
    source = tmp_path / "in.jpg"
    cv2.imwrite(str(source), cv2.resize(FRAMES[0], (256, 192)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    whole = source.read_bytes()
    plain = open_source(source).read()
    source.write_bytes(whole[:-2])  # without the mark of the end
    np.testing.assert_array_equal(open_source(source, strict=True).read(), plain)
    assert capfd.readouterr().err == ""
    source.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 + 100 :])
    read = open_source(source).read()[0]
    np.testing.assert_array_equal(read[:48], plain[0, :48])
    lines = capfd.readouterr().err
    assert (
        lines
        == f"note: {source} has damaged data, and is upscaled as viewers show it (--strict stops instead)\n"
    )
    with pytest.raises(InputError, match="it is damaged or not an image"):
        open_source(source, strict=True)
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="it is damaged or not an image"):
        open_source(source).read()


def test_tags_of_a_tiff_that_describe_its_file_are_not_taken_over(tmp_path):
    tags = {270: "A cat", 305: "Some program"}
    Image.fromarray(FRAMES[0]).save(tmp_path / "in.tif", tiffinfo=tags)
    with Image.open(pass_through(tmp_path / "in.tif", tmp_path / "out.png", scale=2)) as image:
        assert dict(image.getexif()) == {274: 1, **tags}


@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize(
    ("mode", "compression"), [("L", None), ("RGB", "tiff_lzw"), ("I;16", None), ("P", None)]
)
def test_tiff_files_are_turned_upright(tmp_path, pages, mode, compression):
    """Pillow and OpenCV both turn them, and Pillow garbles some."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16), np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    more = {"save_all": True, "append_images": [image]} if pages > 1 else {}
    image.save(tmp_path / "in.tif", tiffinfo={274: 6}, compression=compression, **more)
    reader = open_source(tmp_path / "in.tif", depth=None)
    assert (reader.info.num_frames, reader.info.width, reader.info.height) == (pages, 12, 16)
    np.testing.assert_array_equal(reader.read()[-1, ..., 0], np.rot90(pixels, -1))


def test_numbers_of_which_none_is_white(tmp_path, capsys):
    Image.fromarray(np.full((12, 16), 70_000, np.int32)).save(tmp_path / "in.tif")
    with pytest.raises(InputError, match="has 32-bit integers, for which white is not defined; convert it"):
        open_source(tmp_path / "in.tif")
    Image.fromarray(np.full((12, 16), 3.5, np.float32)).save(tmp_path / "float.tif")
    assert (open_source(tmp_path / "float.tif", depth=None).read() == 65535).all()
    assert "has values up to 3.5; 1 is white, and larger values are clipped\n" in capsys.readouterr().err
    Image.new("LAB", (16, 12)).save(tmp_path / "lab.tif")
    assert not open_source(tmp_path / "lab.tif").info.has_alpha  # A is a colour there
