"""Read a request's form in memory, and check the image in it."""

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
    """Text fields, and at most one file: its bytes and the sender's name for it."""

    fields: dict[str, str]
    image: bytes | None
    name: str


class _InMemory(MultiPartParser):
    """Never writes an upload to disk; the guard limits its size."""

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
    except ClientDisconnect as error:  # the client has left; not an error of the server
        raise HTTPException(400, "the client closed the connection") from error
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
    """The name of an upload without folders, in one printable line of limited length."""
    name = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(char for char in name if char.isprintable())
    return kept[:LONGEST_NAME] or "image"


def look_at(data: bytes, name: str, *, max_pixels: int) -> None:
    """Refuse a file by its header if it is not an image or too large; damage shows later.

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
        raise HTTPException(413, f"too large: the limit is {most}") from None
    except Exception:  # a damaged image of a known format: the reply reports it
        return


def find_format(data: bytes) -> str | None:
    """The format of an image as Pillow names it; None if its header is not that of an image."""
    try:
        with open_image(io.BytesIO(data), sys.maxsize) as image:
            return image.format
    except Exception:  # any error of Pillow on hostile bytes
        return None


def _reason(data: bytes, name: str, max_pixels: int) -> str:
    try:
        decode_image(data, name, max_pixels=max_pixels)
    except BadImage as error:
        return error.reason
    return "is not an image of a known format"
