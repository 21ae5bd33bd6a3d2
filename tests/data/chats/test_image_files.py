"""Images that cannot be had are refused by row, file, rule and remedy; whole ones are upright and RGB."""

from __future__ import annotations

import base64
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from dougong.data.chats.image_files import MOST_PIXELS, decode_image, images_digest, read_image
from dougong.data.chats.parts import ImageName
from dougong.errors import DataError
from PIL import Image
from tests.pictures import picture

PLACE = "line 3: messages[0].content[0]"


def named(folder: Path, name: str) -> ImageName:
    return ImageName(folder / "a.jsonl", PLACE, name)


def decoded(folder: Path, name: str) -> Image.Image:
    image = named(folder, name)
    return decode_image(image, read_image(image))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 100) + b"IDAT" + bytes(9)


def test_an_image_is_upright_and_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    tags = Image.Exif()
    tags[0x0112] = 6
    grey.save(tmp_path / "a.png", exif=tags)
    found = decoded(tmp_path, "a.png")
    assert (found.mode, found.size) == ("RGB", (2, 3))
    assert np.asarray(found)[:, :, 0].tolist() == np.rot90(np.asarray(grey), -1).tolist()


def test_bytes_may_stand_in_the_row(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png").read_bytes()
    for head, encode in (("data:image/png;base64", base64.b64encode), ("DATA:image/png;BASE64", base64.encodebytes)):
        assert read_image(named(tmp_path, f"{head},{encode(data).decode()}")) == data
    for broken in ("data:image/png;base64", "data:image/png;base64,a?b"):
        with pytest.raises(DataError, match=r"a.jsonl: line 3: .*its data: URL: cannot be read .*give a path"):
            read_image(named(tmp_path, broken))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.jsonl: line 3: .*a.png: is no regular file .*give the path of an image"):
        read_image(named(tmp_path, "a.png"))


@pytest.mark.parametrize(("values", "name"), [(np.uint16, "a.png"), (np.float32, "a.tiff"), (np.int32, "a.tiff")])
def test_grey_of_more_than_8_bits_is_refused(values: type, name: str, tmp_path: Path) -> None:
    """Pillow would make each value above 255 white."""
    Image.fromarray(np.full((4, 4), 300, dtype=values)).save(tmp_path / name)
    with pytest.raises(DataError, match=f"line 3: .*{name}: has grey values of more than 8 bits .* convert it to 8"):
        decoded(tmp_path, name)


def test_a_palette_with_transparent_colours_warns_of_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4), "P")
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png", transparency=bytes(range(0, 160, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert np.array_equal(np.asarray(decoded(tmp_path, "a.png")), expected) and not recwarn.list


WRONG = [
    ("gone.png", None, "cannot be opened (No such file or directory); a path counts from the chat file's folder"),
    ("folder", None, "cannot be opened (Is a directory)"),
    ("a.png", b"", "is empty; copy the image again, or take the row out"),
    ("a.png", b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer, not the image itself"),
    ("a.png", b"<svg></svg>", "is none of JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM (it begins with b'<svg></s'); convert"),
    ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "is none of JPEG"),
    ("a.png", png_header(9000, 9000), f"9000 x 9000 pixels; at most {MOST_PIXELS:,} are decoded: scale the image down"),
    ("a.png", png_header(60000, 60000), f"at most {MOST_PIXELS:,} are decoded"),
    ("a.png", png_header(8, 8), "is broken or cut short"),
    ("a.ppm", b"P6 0 8 255 ", "is none of JPEG"),
]


@pytest.mark.parametrize(("name", "data", "message"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_one_that_cannot_be_had_is_refused_by_row_and_file(
    name: str, data: bytes | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        decoded(tmp_path, name)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl: {PLACE}: {tmp_path}/{name}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_what_is_cut_short_is_never_half_an_image(form: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(out, form)
    (tmp_path / "whole").write_bytes(out.getvalue())
    assert decoded(tmp_path, "whole").size == (30, 40)
    (tmp_path / "cut").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    with pytest.raises(DataError, match="line 3: .*cut: (is broken or cut short|is none of)"):
        decoded(tmp_path, "cut")


def test_the_digest_is_of_what_images_hold(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.png", seed=number)
    one, other = named(tmp_path, "0.png"), named(tmp_path, "1.png")
    before = images_digest([one, other, one])
    assert before != images_digest([other, one, one])
    (tmp_path / "0.png").rename(tmp_path / "2.png")
    moved = named(tmp_path, "2.png")
    assert images_digest([moved, other, moved]) == before
    picture(tmp_path / "2.png", seed=2)
    assert images_digest([moved, other, moved]) != before
