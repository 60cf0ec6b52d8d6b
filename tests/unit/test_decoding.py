"""Decoders meet what callers send: known formats by their first bytes, everything else refused by name."""

import base64
import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from loaders import decoding
from loaders.errors import InputError
from loaders.pipelines import outputs, video
from tests.architectures.calls import picture_uri, sound_uri


def _data(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def _frames(width: int = 32, height: int = 32) -> "np.ndarray":
    return np.random.default_rng(1).integers(0, 255, (5, height, width, 3), dtype=np.uint8)


def test_a_picture_comes_upright_and_in_colour() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (20, 10)).save(out, "JPEG", exif=exif)
    made = decoding.picture(out.getvalue(), "image_url")
    assert (made.size, made.mode) == ((10, 20), "RGB")


def test_a_clip_gives_its_frames_and_odd_sizes_become_even() -> None:
    frames = decoding.clip(video.mp4(_frames(31, 33), Fraction(8)), "video_url")
    assert (len(frames), frames[0].size) == (5, (32, 34))


def test_a_clip_with_sound_gives_both() -> None:
    sound = np.sin(np.arange(8000) / 9)[None].astype(np.float32)
    data = video.mp4(_frames(), Fraction(8), video.Track(sound, 8000))
    assert len(decoding.clip(data, "video_url")) == 5
    assert decoding.sound(data, "audio_url").rate == 8000


def test_sound_is_brought_to_the_rate_a_model_wants() -> None:
    made = decoding.sound(_data(sound_uri(rate=400, seconds=0.5)), "audio_url", rate=800)
    assert (made.rate, made.samples.shape[0]) == (800, 2)
    assert abs(made.samples.shape[1] - 400) < 40


@pytest.mark.parametrize("name", ["png", "jpeg", "jpg", "webp"])
def test_the_same_picture_gives_the_same_bytes_in_every_format(name: str) -> None:
    class Result:
        images = (_frames() / 255.0).astype(np.float32)

    how = outputs.style(name, 16.0, None)
    first, second = (outputs.encode(Result(), how) for _ in range(2))
    assert first == second
    assert first[0].file.content_type == f"image/{name.replace('jpg', 'jpeg')}"
    assert decoding.picture(first[0].data, "image_url").size == (32, 32)


def test_the_same_frames_give_the_same_clip() -> None:
    assert video.mp4(_frames(), Fraction(8)) == video.mp4(_frames(), Fraction(8))


def test_an_unknown_output_format_is_named() -> None:
    with pytest.raises(InputError) as caught:
        outputs.style("exe", 16.0, None)
    assert caught.value.location == ("output_format",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"%PDF-1.7",
        _data(picture_uri())[:200],
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decoding.picture(data, "image_url")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\nfile:///etc/passwd\n",  # a playlist would lead the decoder elsewhere
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x00\x00\x00\x18ftypisom" + b"\x00" * 100,
        b"RIFF\x00\x00\x00\x00WAVE",
    ],
)
def test_what_is_no_clip_or_sound_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decoding.clip(data, "video_url")
    with pytest.raises(InputError):
        decoding.sound(data, "audio_url")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked() -> None:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    with pytest.raises(InputError, match="megapixels"):
        decoding.picture(out.getvalue(), "image_url")


def _avif_without_its_picture() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((40, 30), 80).convert("RGB").save(out, "AVIF")
    return out.getvalue().replace(b"iloc", b"free")


def test_what_a_decoder_says_of_nonsense_is_the_callers_fault() -> None:
    """Decoders raise RuntimeError, struct.error, AttributeError…: a model would be blamed for them."""
    with pytest.raises(InputError, match="damaged"):
        decoding.picture(_avif_without_its_picture(), "image_url")
    unknown = bytearray(_data(sound_uri()))
    unknown[20:22] = b"\xee\xee"  # a codec that nobody knows
    with pytest.raises(InputError, match="damaged"):
        decoding.sound(bytes(unknown), "audio_url")
