"""Pictures from bytes, by Pillow, with a reason where that cannot be done."""

from __future__ import annotations

import io
import warnings
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from upright_clean.media import Unreadable

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What is read. Pillow knows more, among them EPS, which it hands to another program."""

ORIENTATION = 0x0112
"""EXIF's tag."""


def opened(content: bytes) -> Any:
    """The picture (`PIL.Image.Image`), its pixels not yet read. Raises Unreadable."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(content), formats=known)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Unreadable("too-many-pixels") from error
        except UnidentifiedImageError as error:
            raise Unreadable("not-an-image") from error
        except Exception as error:  # a decoder raises what it likes on bytes that only begin like a picture
            raise Unreadable("corrupt-image") from error


def loaded(picture: Any) -> Any:
    """The picture with its pixels read, all of them. Raises Unreadable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture.load()
        except Exception as error:  # as above
            raise Unreadable("corrupt-image") from error
    return picture


def upright(picture: Any) -> Any:
    """The picture as it is meant to be seen: turned as EXIF says; itself where that says nothing."""
    try:
        meant = picture.getexif().get(ORIENTATION, 1)
        return ImageOps.exif_transpose(picture) if meant in range(2, 9) else picture
    except Exception:  # EXIF that cannot be read says nothing
        return picture


def over(picture: Any, mode: str, background: tuple[int, int, int] = (255, 255, 255)) -> Any:
    """The picture in ``mode`` (``RGB``, ``L``), what is transparent laid over ``background``."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(ground, picture)
    return picture if picture.mode == mode else picture.convert(mode)
