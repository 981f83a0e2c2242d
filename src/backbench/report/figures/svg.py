"""Clean matplotlib's SVG for use in a page: no style sheet, photographs as JPEG."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable

from PIL import Image

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_TAG = re.compile(r"<[^>]*>")  # < and > are escaped between tags and in attributes
_STYLE = re.compile(r' style="([^"]*)"')
_EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
_JPEG_QUALITY = 85
_FONT = re.compile(r"(?:(?P<weight>\d{3}|bold)\s+)?(?P<size>[\d.]+)px\s")


def clean_svg(text: str) -> str:
    """An SVG of matplotlib's without prolog, metadata and style sheet, and with attributes in place of styles.

    A style sheet inside an SVG would affect the whole page, and a strict content policy blocks style attributes;
    presentation attributes are safe. Points become pixels.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    head, body = text.split(">", 1)
    head = re.sub(r'="([\d.]+)pt"', r'="\1"', head).replace("<svg ", '<svg stroke-linejoin="round" ', 1)
    return (head + ">" + _change_tags(body, lambda tag: _with_light_photograph(_without_style(tag)))).strip()


def _with_light_photograph(tag: str) -> str:
    """An embedded image as JPEG, if that is less than half the size of PNG: photographs, not drawings."""
    match = _EMBEDDED.search(tag)
    if match is None:
        return tag
    content = base64.b64decode(match[1])
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    if 2 * len(stream.getvalue()) > len(content):
        return tag
    return tag.replace(match[0], "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii"))


def _change_tags(text: str, change: Callable[[str], str]) -> str:
    return _TAG.sub(lambda match: change(match[0]), text)


def _without_style(tag: str) -> str:
    return _STYLE.sub(lambda match: _attributes(html.unescape(match[1])), tag)


def _attributes(style: str) -> str:
    written = []
    for entry in style.split(";"):
        key, _, value = (part.strip() for part in entry.partition(":"))
        if key == "font":
            font = _FONT.match(value)
            if font:
                written.append(f'font-size="{font["size"]}px"')
                written += [f'font-weight="{font["weight"]}"'] if font["weight"] else []
            written.append(f'font-family="{SANS}"')
        elif key == "font-family":
            written.append(f'font-family="{SANS}"')
        elif key:
            written.append(f'{key}="{html.escape(value)}"')
    return "".join(" " + attribute for attribute in written)
