"""Download images of Open Images by their ids; existing images are not downloaded again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backbench.data.decode import read_header
from backbench.data.fetch import fetch_file
from backbench.errors import BadImage, DownloadError
from backbench.progress import Bar, Progress, format_bytes
from backbench.storage import IN_CACHE, storage_error, write_atomically
from backbench.wording import count, list_some, quote

BASE_URL = "https://open-images-dataset.s3.amazonaws.com"
LIST_FILE = "image_ids.txt"
WORK_FOLDER = ".fetching"
TYPICAL_BYTES = 300_000  # of one image, for the displayed estimate
NUM_THREADS = 8
BLOCK = 64


@dataclass(frozen=True)
class Missing:
    """An image that is not on disk. `part`: the split as Open Images calls it: train, validation or test."""

    part: str
    image_id: str

    @property
    def line(self) -> str:
        """The format of the official downloader."""
        return f"{self.part}/{self.image_id}"


def write_image_ids(folder: Path, images: Sequence[Missing]) -> Path:
    """Write `image_ids.txt`, one `train/ID` on each line, for the official downloader.py as well.

    Raises:
        StorageError: it can't be written.
    """
    path = folder / LIST_FILE
    write_atomically(path, "".join(f"{image.line}\n" for image in images).encode(), IN_CACHE)
    return path


def fetch_images(
    folder: Path,
    images: Sequence[Missing],
    progress: Progress,
    *,
    max_pixels: int,
    base_url: str = BASE_URL,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Download the images to `folder/SPLIT/ID.jpg`, several at once; returns their number.

    Missing or invalid images are reported and left out. No checksums are published: an image is accepted when all
    announced bytes have arrived and start like an image. A file gets its name only then, so the same command
    resumes an interrupted download.

    Raises:
        DownloadError: no image, or none of many in a row, could be downloaded.
        StorageError: the folder can't be written.
    """
    listed = write_image_ids(folder, images)
    size = format_bytes(len(images) * TYPICAL_BYTES)
    progress.say(
        f"downloading {count(len(images), 'image')} of Open Images to {folder}, about {size}; list: {listed}"
    )
    work = folder / WORK_FOLDER

    def fetch_one(image: Missing) -> str:
        aside = work / image.part / f"{image.image_id}.jpg"
        target = folder / image.part / aside.name
        try:
            fetch_file(f"{base_url}/{image.line}.jpg", aside, sleep=sleep)
            read_header(aside, max_pixels=max_pixels)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(target)
        except (DownloadError, BadImage) as error:
            aside.unlink(missing_ok=True)
            return str(error)
        except OSError as error:
            raise storage_error(target, error, IN_CACHE) from error
        return ""

    failures: list[tuple[Missing, str]] = []
    try:
        with progress.bar("fetching", len(images)) as bar:
            for block, reasons in _in_blocks(images, fetch_one, bar):
                failed = [(image, why) for image, why in zip(block, reasons, strict=True) if why]
                failures += failed
                if len(failed) == len(block) and (len(block) == BLOCK or len(failures) == len(images)):
                    raise DownloadError(
                        f"images of Open Images can't be downloaded: {failed[0][1]} The missing images are listed "
                        f"in {listed} for the official downloader.py; put the files at {folder}/SPLIT/ID.jpg."
                    )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if failures:
        shown = list_some((quote(image.line) for image, _ in failures), 3)
        progress.warn(
            f"{len(failures):,} of {count(len(images), 'image')} could not be downloaded ({shown}): "
            f"{failures[0][1]}"
        )
    return len(images) - len(failures)


def _in_blocks(
    images: Sequence[Missing], fetch_one: Callable[[Missing], str], bar: Bar
) -> Iterator[tuple[Sequence[Missing], list[str]]]:
    pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="openimages")

    def fetch_and_count(image: Missing) -> str:
        why = fetch_one(image)
        bar.advance()
        return why

    try:
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            yield block, list(pool.map(fetch_and_count, block))
    finally:
        pool.shutdown(cancel_futures=True)
