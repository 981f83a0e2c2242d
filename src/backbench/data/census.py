"""The data scan: one pass that hashes, checks and measures all images, before the split.

The results for an image depend only on its bytes, so they are cached on disk by content hash: a second scan
of the same images reads and hashes the files but decodes none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from backbench.config import GreyScale
from backbench.data import decode
from backbench.data.colour import is_deep
from backbench.data.grey import Depth, decide_scale
from backbench.data.image_stats import COLOUR_NAMES, FACT_NAMES, measure_array, measure_colours, measure_file
from backbench.data.in_flight import GATE
from backbench.data.listing import Listing
from backbench.data.store import PixelStore
from backbench.documents import parse_json
from backbench.errors import BadImage, StorageError
from backbench.progress import SILENT, Bar, Progress
from backbench.runtime import cache_folder, num_workers
from backbench.storage import IN_CACHE, write_atomically

CENSUS_VERSION = 2
"""Increase this number when the same bytes give other facts or colours than before."""

T = TypeVar("T")

BLOCK = 64
"""Images that one thread takes at a time."""


@dataclass(frozen=True)
class Census:
    """One row for each sample of the listing, bad ones included (their facts and colours are 0).

    Args:
        hashes: SHA-256 of the file's bytes (in memory: of shape and pixels); "" for a file that can't be read.
        bad: row -> the reason why it is not a usable image.
        facts: (n, len(fact_names)) float32, see `measure.FACT_NAMES`.
        colours: (n, len(colour_names)) float32 in 0..1, see `measure.COLOUR_NAMES`.
        read_seconds, decode_seconds: spent this time, summed over threads.
        remarks: row -> unused content of the image, see `bands.find_remarks`.
        depths: row -> the values of an image with more than 8 bits; `grey`: the scale of all of these.
    """

    hashes: tuple[str, ...]
    bad: dict[int, str]
    facts: np.ndarray
    colours: np.ndarray
    fact_names: tuple[str, ...] = FACT_NAMES
    colour_names: tuple[str, ...] = COLOUR_NAMES
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    remarks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    depths: dict[int, Depth] = field(default_factory=dict)
    grey: GreyScale | None = None


@dataclass(frozen=True)
class _Entry:
    """Scan results for one content hash: facts and colours, or the reason why it is not an image.

    Colours of an image with a `depth` are those by the scale `grey`; None: not known yet.
    """

    facts: np.ndarray
    colours: np.ndarray
    reason: str = ""
    remarks: tuple[str, ...] = ()
    depth: Depth | None = None
    grey: GreyScale | None = None


def take_census(
    listing: Listing,
    store: PixelStore,
    *,
    max_pixels: int,
    cache_dir: Path | None = None,
    progress: Progress = SILENT,
) -> Census:
    """Hash every image; decode and measure those that are not in the cache.

    Cost: reads every file once; reads and decodes each new content once more, and twice if it has more than 8
        bits,
    because the grey scale of the source (set on `store`) must be known first. Decoded images stay in `store` while
    there is room. Other memory: about 600 bytes for each image.

    Args:
        cache_dir: the cache of results; None: the user's cache folder. A damaged or read-only cache is not an
            error.
    """
    folder = (cache_folder() if cache_dir is None else cache_dir) / "census"
    hashes, unreadable = _hash_all(listing, store, progress)
    found = _count_first(hashes)
    path = _cache_file(folder, found, max_pixels)
    known = _read_cache(path)
    fresh = {content: row for content, row in found.items() if content not in known}
    if fresh:
        known.update(_measure_all(listing, store, fresh, max_pixels, progress))
    entries = {content: known[content] for content in found}
    store.grey = decide_scale(entry.depth for entry in entries.values() if entry.depth is not None)
    stale = {
        content: (found[content], entry)
        for content, entry in entries.items()
        if entry.depth is not None and entry.grey != store.grey
    }
    if stale:
        entries |= _colour_deep(store, stale, progress)
    if fresh or stale:
        _write_cache(path, entries, progress)
    return _assemble(hashes, unreadable, entries, store)


def _assemble(
    hashes: Sequence[str], unreadable: dict[int, str], known: dict[str, _Entry], store: PixelStore
) -> Census:
    facts = np.zeros((len(hashes), len(FACT_NAMES)), dtype=np.float32)
    colours = np.zeros((len(hashes), len(COLOUR_NAMES)), dtype=np.float32)
    bad = dict(unreadable)
    remarks: dict[int, tuple[str, ...]] = {}
    depths: dict[int, Depth] = {}
    for row, content in enumerate(hashes):
        if row in unreadable:
            continue
        entry = known[content]
        facts[row], colours[row] = entry.facts, entry.colours
        if entry.reason:
            bad[row] = entry.reason
        if entry.remarks:
            remarks[row] = entry.remarks
        if entry.depth is not None:
            depths[row] = entry.depth
    return Census(
        hashes=tuple(hashes),
        bad=dict(sorted(bad.items())),
        facts=facts,
        colours=colours,
        read_seconds=store.read_seconds,
        decode_seconds=store.decode_seconds,
        remarks=remarks,
        depths=depths,
        grey=store.grey,
    )


def _count_first(hashes: Sequence[str]) -> dict[str, int]:
    """Content hash -> the first row that has it."""
    first: dict[str, int] = {}
    for row, content in enumerate(hashes):
        if content:
            first.setdefault(content, row)
    return first


def _hash_all(listing: Listing, store: PixelStore, progress: Progress) -> tuple[list[str], dict[int, str]]:
    hashes = [""] * len(listing)
    unreadable: dict[int, str] = {}

    def hash_one(row: int) -> None:
        try:
            hashes[row] = store.hash_of(row)
        except BadImage as error:
            unreadable[row] = error.reason

    with progress.bar("reading", len(listing)) as bar:
        _in_threads(hash_one, range(len(listing)), bar)
    return hashes, unreadable


def _measure_all(
    listing: Listing, store: PixelStore, fresh: dict[str, int], max_pixels: int, progress: Progress
) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    contents = list(fresh)
    with progress.bar("checking", len(contents)) as bar:
        if listing.pixels is not None:
            _measure_arrays(listing.pixels, fresh, entries, bar)
            return entries

        def measure_one(content: str) -> None:
            with GATE.kept():
                entries[content] = _measure_file(listing, store, fresh[content], max_pixels)

        _in_threads(measure_one, contents, bar)
    return entries


def _measure_file(listing: Listing, store: PixelStore, row: int, max_pixels: int) -> _Entry:
    assert listing.files is not None  # the caller has no pixels
    data = store.read_bytes(row)  # a read error says nothing about the content, so it is not cached
    try:
        header = decode.read_header(listing.files[row], max_pixels=max_pixels)
        if is_deep(header.mode):  # its colours wait for the scale of the source
            depth, colours = store.measure_values(row, data), np.zeros(len(COLOUR_NAMES), np.float32)
            return _Entry(measure_file(header), colours, remarks=header.remarks, depth=depth)
        pixels = store.decode(row, data)
    except BadImage as error:
        no_facts, no_colours = np.zeros(len(FACT_NAMES)), np.zeros(len(COLOUR_NAMES))
        return _Entry(no_facts.astype(np.float32), no_colours.astype(np.float32), error.reason)
    return _Entry(measure_file(header), measure_colours(pixels[None])[0], remarks=header.remarks)


def _colour_deep(
    store: PixelStore, entries: dict[str, tuple[int, _Entry]], progress: Progress
) -> dict[str, _Entry]:
    """The entries of images with more than 8 bits, with their colours by the scale of `store`."""
    coloured: dict[str, _Entry] = {}

    def measure_one(content: str) -> None:
        row, entry = entries[content]
        with GATE.kept():
            pixels = store.decode(row, store.read_bytes(row))
            coloured[content] = replace(entry, colours=measure_colours(pixels[None])[0], grey=store.grey)

    with progress.bar("scaling greys", len(entries)) as bar:
        _in_threads(measure_one, entries, bar)
    return coloured


def _measure_arrays(
    pixels: np.ndarray | Sequence[np.ndarray], fresh: dict[str, int], entries: dict[str, _Entry], bar: Bar
) -> None:
    contents = list(fresh)
    for start in range(0, len(contents), BLOCK):
        block = contents[start : start + BLOCK]
        images = [pixels[fresh[content]] for content in block]
        if len({image.shape for image in images}) == 1:  # measured together: many times faster for small images
            colours = measure_colours(np.stack(images))
        else:
            colours = np.concatenate([measure_colours(image[None]) for image in images])
        for content, image, row in zip(block, images, colours, strict=True):
            entries[content] = _Entry(measure_array(image.shape[1], image.shape[0]), row)
        bar.advance(len(block))


def _in_threads(work: Callable[[T], None], items: Iterable[T], bar: Bar) -> None:
    """Do `work` on every item, in blocks; the first error, or Ctrl-C, stops the rest."""
    waiting = list(items)
    blocks = [waiting[start : start + BLOCK] for start in range(0, len(waiting), BLOCK)]

    def do_block(block: list[T]) -> int:
        for item in block:
            work(item)
        return len(block)

    pool = ThreadPoolExecutor(num_workers(), thread_name_prefix="census")
    try:
        for num in pool.map(do_block, blocks):
            bar.advance(num)
    finally:
        pool.shutdown(cancel_futures=True)


def _cache_file(folder: Path, contents: Iterable[str], max_pixels: int) -> Path:
    """Named after the smallest content hash: a moved or renamed folder finds it, and adding images rarely
    changes it. Rows are looked up by content, so two data sets can share a file."""
    versions = f"{CENSUS_VERSION}/{decode.decoder_key()}/{max_pixels}/{min(contents, default='')}"
    return folder / f"{hashlib.sha256(versions.encode()).hexdigest()[:32]}.safetensors"


def _write_cache(path: Path, entries: dict[str, _Entry], progress: Progress) -> None:
    """SHA-256 of the rest, then tensors: content hashes, facts, colours, and rare facts as JSON."""
    notes = {content: note for content, entry in entries.items() if (note := _note(entry))}
    body = format_tensors(
        {
            "hashes": np.frombuffer(bytes.fromhex("".join(entries)), np.uint8).reshape(-1, 32),
            "facts": np.stack([entry.facts for entry in entries.values()]),
            "colours": np.stack([entry.colours for entry in entries.values()]),
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
        }
    )
    try:
        write_atomically(path, hashlib.sha256(body).digest() + body, IN_CACHE)
    except StorageError as error:
        progress.warn(f"the results of the data scan can't be cached: {error}")


def _note(entry: _Entry) -> dict[str, Any]:
    note: dict[str, Any] = {"reason": entry.reason, "remarks": entry.remarks}
    if entry.depth is not None:
        note |= {"depth": astuple(entry.depth), "grey": entry.grey and entry.grey.model_dump()}
    return {name: value for name, value in note.items() if value}


def _read_note(facts: np.ndarray, colours: np.ndarray, note: dict[str, Any]) -> _Entry:
    depth, grey = note.get("depth"), note.get("grey")
    return _Entry(
        facts,
        colours,
        note.get("reason", ""),
        tuple(note.get("remarks", ())),
        None if depth is None else Depth(*depth),
        None if grey is None else GreyScale(**grey),
    )


def _read_cache(path: Path) -> dict[str, _Entry]:
    """The cached results; empty if there are none or they are damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return {}
    try:
        tensors = parse_tensors(body)
        hashes, facts, colours = tensors["hashes"], tensors["facts"], tensors["colours"]
        notes = parse_json(tensors["notes"].tobytes())
    except (SafetensorError, KeyError, ValueError):
        return {}
    if facts.shape[1:] != (len(FACT_NAMES),) or colours.shape[1:] != (len(COLOUR_NAMES),):
        return {}
    names = [row.tobytes().hex() for row in hashes]
    return {name: _read_note(facts[row], colours[row], notes.get(name, {})) for row, name in enumerate(names)}
