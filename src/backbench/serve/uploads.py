"""A request's form, read in memory, and the first look at the image in it."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from backbench.data.decode import decode_image, open_image
from backbench.errors import BadImage

MAX_FIELDS = 8
MAX_FIELD_BYTES = 16_384
LONGEST_NAME = 255


@dataclass(frozen=True)
class Form:
    """Text fields, and the one file if there is one: its bytes and what its sender calls it."""

    fields: dict[str, str]
    image: bytes | None
    name: str


class _InMemory(MultiPartParser):
    """Never writes an upload to disk; the guard has bounded its size."""

    spool_max_size = 1 << 40


async def read_form(request: Request) -> Form:
    """The form of a request.

    Raises:
        HTTPException: 415: not multipart; 400: malformed, too many fields, or several images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, "send a form as multipart/form-data, with the fields 'image' and 'model'")
    try:
        parser = _InMemory(
            request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise HTTPException(400, "the form can't be read: one image and a few short fields are allowed") from error
    except ClientDisconnect as error:  # no one is left to be told, and nothing is wrong here
        raise HTTPException(400, "the sender went away") from error
    try:
        return await _take(form)
    finally:
        await form.close()


async def _take(form: FormData) -> Form:
    fields = {key: value for key, value in form.multi_items() if isinstance(value, str)}
    upload = form.get("image")
    if not isinstance(upload, UploadFile):
        return Form(fields, None, "")
    return Form(fields, await upload.read(), clean_name(upload.filename or ""))


def clean_name(given: str) -> str:
    """What to call an upload: its name without folders, in one printable line of bounded length."""
    name = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(char for char in name if char.isprintable())
    return kept[:LONGEST_NAME] or "image"


def look_at(data: bytes, name: str, *, max_pixels: int) -> None:
    """Refuse what is no image, or too large a one, by its start alone; damage shows later.

    Raises:
        HTTPException: 415: no image of a known format; 413: more than `max_pixels`.
    """
    try:
        with open_image(io.BytesIO(data), max_pixels):
            return
    except UnidentifiedImageError:
        raise HTTPException(415, _reason(data, name, max_pixels)) from None
    except Image.DecompressionBombError:
        most = f"{max_pixels / 1e6:.0f} million pixels"
        raise HTTPException(413, f"too large: at most {most} are decoded here") from None
    except Exception:  # a known format, damaged: the answer says how
        return


def find_format(data: bytes) -> str | None:
    """The format of an image as Pillow names it; None if its start is not that of one."""
    try:
        with open_image(io.BytesIO(data), sys.maxsize) as image:
            return image.format
    except Exception:  # whatever hostile bytes make of Pillow
        return None


def _reason(data: bytes, name: str, max_pixels: int) -> str:
    try:
        decode_image(data, name, max_pixels=max_pixels)
    except BadImage as error:
        return error.reason
    return "is not an image of a known format"
