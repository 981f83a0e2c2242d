"""Any image Pillow can load, as 8-bit sRGB: bit depth, palettes, transparency, ink and colour profiles.

Rules, so that the same file always gives the same pixels:

* Grey of more than 8 bits follows the grey scale of its source (`data/grey.py`), black..white -> 0..255, rounded
  to the nearest level. Values that are not finite make the image unusable.
* Without such a scale 16-bit grey is 0..65535 (12-bit TIFF: 0..4095), and 32-bit integers and floats, which have
  no agreed range, follow the scale that a source of this one image would have.
* Grey stored as "white is zero" is inverted.
* Transparency is blended over white, as a page or a viewer shows it.
* * CMYK in a JPEG is assumed to be inverted, as Adobe and libjpeg write it (Pillow does so for every JPEG).
* * A colour profile is converted to sRGB if that changes any colour by more than two levels. An unreadable
profile,
  or one for another kind of image, is ignored.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from backbench.config import GreyScale
from backbench.data.grey import decide_scale, measure_depth

BACKGROUND = (255, 255, 255)
MAX_PROFILE_BYTES = 4_000_000
PROFILE_TOLERANCE = 2  # levels of 255; published variants of sRGB differ by that much among themselves

_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 262, 258, 339  # TIFF tags
_MODE_OF_SPACE = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class UnusablePixels(ValueError):
    """Pixels that load but have no meaning as a picture; the text gives the reason."""


def to_rgb(image: Image.Image, grey: GreyScale | None = None) -> Image.Image:
    """An 'RGB' image of the same size, by the rules above; `image` itself if it is plain RGB already.

    `grey`: of the source; None: it has none.

    Raises UnusablePixels, and Pillow's errors for a mode that it can't convert. Cost: one pass over the
    pixels for each conversion that is needed, none for plain RGB.
    """
    profile = _read_profile(image)
    if is_deep(image.mode):
        plain = Image.fromarray(_scale_deep_grey(image, grey))
    elif image.has_transparency_data:
        plain = _blend(image)
    elif image.mode in ("RGB", "L") or (image.mode == "CMYK" and profile is not None):
        plain = image
    else:
        plain = image.convert("RGB")
    if profile is not None:
        plain = _apply_profile(plain, image.mode, profile)
    return plain if plain.mode == "RGB" else plain.convert("RGB")


def _blend(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    blended = Image.new("RGB", image.size, BACKGROUND)
    blended.paste(rgba, mask=rgba.getchannel("A"))
    return blended


def is_deep(mode: str) -> bool:
    """Whether images of this Pillow mode are grey with more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def read_deep(image: Image.Image) -> np.ndarray:
    """(h, w) stored values of an image of a deep mode; Pillow scales those of a PGM to 0..65535.

    Raises UnusablePixels for values that are not finite.
    """
    tags: Any = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT) == (1,) and tags.get(_BITS_PER_SAMPLE) == (32,):
        values = values.view(np.uint32)  # Pillow keeps unsigned numbers in its signed ones
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnusablePixels("holds values that are not finite numbers (NaN or infinite)")
    return values


def _scale_deep_grey(image: Image.Image, grey: GreyScale | None) -> np.ndarray:
    """(h, w) uint8 levels of an image of a deep mode."""
    tags: Any = getattr(image, "tag_v2", {})
    values = read_deep(image)
    low, high = _find_span(image, values, grey)
    if low == 0 and high in (4095, 65535) and values.dtype.kind != "f":
        levels = _scale_integers(values, int(high))
    else:
        levels = _scale_span(values, low, high)
    if tags.get(_PHOTOMETRIC) == 0:
        levels = 255 - levels
    key = image.info.get("transparency")
    if isinstance(key, int):
        levels[values == key] = 255
    return levels


def _find_span(image: Image.Image, values: np.ndarray, grey: GreyScale | None) -> tuple[float, float]:
    """(black, white) for the values of an image: those of its source, else of its kind, else its own."""
    known = None
    if grey is not None:
        known = grey.floats if values.dtype.kind == "f" else grey.integers
    if known is not None:
        return known
    if image.mode.startswith("I;16"):
        return 0.0, 4095.0 if getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,) else 65535.0
    if image.mode == "I" and image.format == "PPM":  # a dark one looks like an 8-bit one
        return 0.0, 65535.0
    own = decide_scale([measure_depth(values)])
    assert own is not None  # there is an image
    span = own.floats or own.integers
    assert span is not None  # of its kind
    return span


def _scale_integers(values: np.ndarray, top: int) -> np.ndarray:
    """0..top -> 0..255 to the nearest level, in whole numbers; other values are clipped."""
    scaled = np.clip(values, 0, top).astype(np.uint32)
    scaled *= 255
    scaled += top // 2
    scaled //= top
    return scaled.astype(np.uint8)


def _scale_span(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low..high -> 0..255 to the nearest level; other values are clipped; all black if low equals high."""
    if low == high:
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = (np.clip(values.astype(np.float64), low, high) - low) * (255.0 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def _read_profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and 128 <= len(profile) <= MAX_PROFILE_BYTES:
        return profile
    return None


def _apply_profile(plain: Image.Image, stored_mode: str, profile: bytes) -> Image.Image:
    """`plain` ('RGB', 'L' or 'CMYK') in sRGB; unchanged if the profile is unusable."""
    found = _make_transform(profile)
    if found is None:
        return plain
    mode, transform = found
    if mode == "L" and (plain.mode == "L" or stored_mode in ("LA", "PA", "P", "1")):
        plain = plain.convert("L")
    elif mode == "RGB" and plain.mode == "L":
        plain = plain.convert("RGB")
    if plain.mode != mode:
        return plain
    converted = ImageCms.applyTransform(plain, transform)
    return plain if converted is None else converted


@lru_cache(maxsize=16)
def _make_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The mode of a profile and its transform to sRGB; None if it is broken, foreign or almost sRGB.

    The colours decide whether it is sRGB, not its name, which can be anything.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_OF_SPACE[source.profile.xcolor_space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        probe = _make_probe(mode)
        seen = ImageCms.applyTransform(probe, transform)
    except Exception:  # a broken profile must not lose the image, and Pillow's errors here are not documented
        return None
    if mode != "CMYK":
        difference = np.asarray(seen).astype(int) - np.asarray(probe.convert("RGB"))
        if np.abs(difference).max() <= PROFILE_TOLERANCE:
            return None
    return mode, transform


def _make_probe(mode: str) -> Image.Image:
    """An image that holds a grid of colours: all grey levels, or nine steps of each channel."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), axis=-1)
    return Image.fromarray(np.ascontiguousarray(channels.reshape(-1, 9, len(mode))), mode=mode)
