"""Image files: their bytes and their pixels, or why there are none. Imports no torch.

An image that is missing, cut short or too large is refused where its row is first read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from dougong.data.chats.parts import ImageName
from dougong.errors import DataError
from dougong.models.stored.headers import LFS_POINTER

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is read. Not all that Pillow knows: it would start another program for some."""
_WIDE = ("I", "F")
"""How Pillow's modes of 16 and 32 bits begin."""
MOST_PIXELS = 1 << 26
"""A small file may hold more pixels than a machine has memory."""


def read_image(name: ImageName) -> bytes:
    """The bytes of an image. Raises DataError where there are none."""
    data = _inline(name) if name.is_inline else _file(name)
    if not data:
        raise DataError(f"{name.words}: is empty; copy the image again, or take the row out")
    return data


def _file(name: ImageName) -> bytes:
    try:
        _refuse_no_file(name)
        data = name.path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{name.words}: cannot be opened ({error.strerror}); a path counts from the chat "
            "file's folder: check it, or take the row out"
        ) from error
    if data.startswith(LFS_POINTER):
        raise DataError(
            f"{name.words}: is a git-lfs pointer, not the image itself: run `git lfs pull` there"
        )
    return data


def _refuse_no_file(name: ImageName) -> None:
    """A pipe or a device may give bytes for ever, or never."""
    mode = name.path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(
            f"{name.words}: is no regular file (a pipe, a socket or a device); give the path of an "
            "image file, or take the row out"
        )


def _inline(name: ImageName) -> bytes:
    head, comma, body = name.name.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"{name.words}: cannot be read ({error}); write data:image/png;base64,BYTES, or give "
            "a path"
        ) from error


def image_digest(data: bytes) -> str:
    """Hexadecimal digest of an image's bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def images_digest(names: Iterable[ImageName]) -> str:
    """Hexadecimal digest of what all images hold, in this order, whatever they are called. Raises
    DataError for one that cannot be read."""
    total, known = hashlib.blake2b(digest_size=16), dict[str, str]()
    for name in names:
        place = name.name if name.is_inline else str(name.path)
        if place not in known:
            known[place] = image_digest(read_image(name))
        total.update(known[place].encode())
    return total.hexdigest()


def decode_image(name: ImageName, data: bytes) -> Image.Image:
    """Its pixels, RGB, upright as its own tags say. Of one that moves: its first picture. Raises
    DataError where they cannot be made."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(name, opened.size)
        _check_mode(name, opened.mode)
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        # Nothing of it is left in RGB, of which Pillow would warn without a name.
        upright.info.pop("transparency", None)
        made: Image.Image = upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name.words}: is none of {', '.join(FORMATS)} (it begins with {data[:8]!r}); convert "
            "it, or take the row out"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(name, str(error))) from error
    except DataError:
        raise
    except Exception as error:  # each decoder fails in its own way
        raise DataError(
            f"{name.words}: is broken or cut short ({error}); copy it again, or take the row out"
        ) from error
    return made


def _check_mode(name: ImageName, mode: str) -> None:
    """Pillow cuts off all above 255, so that such an image is nearly white, or nearly black."""
    if mode.startswith(_WIDE):
        raise DataError(
            f"{name.words}: has grey values of more than 8 bits (Pillow's mode {mode}), and no "
            "rule says what of them is white; convert it to 8 bits a channel"
        )


def _check_size(name: ImageName, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MOST_PIXELS:
        raise DataError(_too_large(name, f"{width} x {height} pixels"))


def _too_large(name: ImageName, found: str) -> str:
    return (
        f"{name.words}: {found}; at most {MOST_PIXELS:,} are decoded: scale the image down, which "
        "the model does too"
    )
