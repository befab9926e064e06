"""Pictures without metadata, upright, in one mode and within one size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from upright import Decisions, Scope, Step, hook
from upright_clean.media import Unreadable, data, files, needs, renamed

if TYPE_CHECKING:
    from datasets import Dataset

    from upright import Run

DRAWN = frozenset(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB sBIT bKGD pHYs".split())
"""Chunks of a PNG that say how it looks."""
QUALITY = 95
"""Of a JPEG whose pixels changed; one that only loses metadata keeps its own."""


class ImageNormalise(Step):
    """Remove metadata (EXIF, GPS, XMP, comments), after turning the picture as EXIF says, and bring mode and size to a rule.

    Colours of another profile become sRGB. A JPEG stays a JPEG, every other format becomes PNG. Pictures of several frames
    or of more than 8 bits a channel are flagged and left as they are, and so are files that cannot be read, with the
    reason. Looks at one row at a time, so it is applied to the test split as well.
    """

    scope: ClassVar[Scope] = Scope(row_local=True)

    mode: Literal["RGB", "L", "keep"] = Field(
        "RGB", description="Colour, grey, or as it was; what is transparent is laid over white, except with `keep`."
    )
    max_side: int | None = Field(
        None, ge=8, description="Longest side in pixels; a larger picture is scaled down in proportion."
    )
    corrupt: Literal["flag", "drop"] = Field("flag", description="What becomes of a file that cannot be read.")

    @hook
    def clean(self, rows: Dataset, run: Run) -> Decisions:
        needs(self, run, "PIL")
        decisions = Decisions()
        for row_id, value in files(rows, "image", self, run):
            try:
                content, suffix, reasons = self.normalised(data(value))
            except Unreadable as error:
                decisions.add(row_id, self.corrupt, error.reason)
                continue
            except LeftAsItIs as left:
                decisions.add(row_id, "flag", left.reason)
                continue
            if reasons and value is not None:
                image = {"bytes": content, "path": renamed(value, suffix)}
                decisions.add(row_id, "edit", "+".join(reasons), values={"image": image})
        return decisions

    def normalised(self, content: bytes) -> tuple[bytes, str, list[str]]:
        """The file, the suffix of its format and the reasons that changed it; none where it is as it should be.

        Raises Unreadable, and LeftAsItIs for what would lose frames or depth.
        """
        from PIL import Image

        from upright_clean import picture

        given = picture.opened(content)
        if getattr(given, "is_animated", False) and given.format != "MPO":  # an MPO's other frames are previews
            raise LeftAsItIs("several-frames")
        if given.mode.startswith(("I", "F")):
            raise LeftAsItIs("more-than-8-bits")
        jpeg = given.format in ("JPEG", "MPO")
        turned = picture.upright(picture.loaded(given))
        metadata = _metadata(given, content)
        reasons = ["turned"] if turned is not given else []
        found = turned
        if "icc_profile" in given.info and (matched := _srgb(found)) is not found:
            found = matched
            reasons.append("srgb")
        if self.mode not in ("keep", found.mode):
            found = picture.over(found, self.mode)
            reasons.append("mode")
        if self.max_side is not None and max(found.size) > self.max_side:
            scale = self.max_side / max(found.size)
            size = tuple(max(1, round(side * scale)) for side in found.size)
            smooth = found.convert("RGBA" if found.has_transparency_data else "RGB") if found.mode == "P" else found
            found = smooth.resize(size, Image.Resampling.LANCZOS)
            reasons.append("size")
        reasons += ["metadata"] if metadata else []
        reasons += ["format"] if given.format not in ("JPEG", "PNG") else []
        return (*_encoded(found, jpeg, untouched=found is given), reasons) if reasons else (content, "", [])


class LeftAsItIs(Exception):
    """A picture that a change would take something from; ``reason`` is the code that its flag gives."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _metadata(given: Any, content: bytes) -> bool:
    """Whether the file holds more than its picture: any segment or chunk that drawing it does not need, or what follows it."""
    if given.format == "PNG":
        return not set(_chunks(content)) <= DRAWN or not content.endswith(b"IEND\xaeB`\x82")
    if given.format in ("JPEG", "MPO"):
        segments = {name for name, _ in given.applist}
        return bool(segments - {"APP0", "APP14"}) or not content.rstrip(b"\0").endswith(b"\xff\xd9")
    return bool(given.getexif())


def _chunks(content: bytes) -> Iterator[bytes]:
    """The names of a PNG's chunks (PNG specification, 5.3)."""
    place = 8
    while place + 8 <= len(content):
        yield content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4])


def _srgb(found: Any) -> Any:
    """The picture in sRGB; itself where its profile is none that can be applied, or where it is sRGB already."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(found.info["icc_profile"]))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return found
        alpha = found.getchannel("A") if found.mode in ("RGBA", "LA") else None
        mode = "L" if found.mode in ("L", "LA") else "RGB"
        plain = found.convert(mode) if alpha is not None or found.mode == "P" else found
        matched = ImageCms.profileToProfile(plain, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError):
        return found
    if matched is not None and alpha is not None:
        matched.putalpha(alpha)
    return matched


def _encoded(found: Any, jpeg: bool, *, untouched: bool) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    transparency = found.info.get("transparency") if found.mode == "P" else None
    found.info = {} if transparency is None else {"transparency": transparency}
    if jpeg:
        found.save(buffer, "JPEG", quality="keep" if untouched and found.format == "JPEG" else QUALITY)
        return buffer.getvalue(), ".jpg"
    if found.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        found = found.convert("RGB")
    found.save(buffer, "PNG")
    return buffer.getvalue(), ".png"
