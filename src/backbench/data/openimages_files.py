"""The official files of Open Images that a subset needs: their addresses, and checks of local copies."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbench.data.fetch import USER_AGENT, fetch_file
from backbench.data.openimages_labels import read_names, read_parents, read_rows
from backbench.errors import DataError
from backbench.progress import Progress
from backbench.wording import count

FILES_URL = "https://storage.googleapis.com/openimages"
DESCRIPTIONS = "v5/class-descriptions-boxable.csv"
HIERARCHY = "2018_04/bbox_labels_600_hierarchy.json"
LABELS = "v5/{part}-annotations-human-imagelabels-boxable.csv"
PARTS = ("train", "validation", "test")
ASK_SECONDS = 5.0
COLUMNS = ["ImageID", "Source", "LabelName", "Confidence"]


@dataclass(frozen=True)
class OfficialFile:
    """One published file and the copy of it in a folder.

    Args:
        num_bytes: of the copy; None if there is none.
        published_bytes: the size on the server; None if the server can't be reached.
        found: description of the copy's content, or of its damage.
    """

    name: str
    url: str
    path: Path
    state: Literal["there", "missing", "damaged"]
    num_bytes: int | None = None
    published_bytes: int | None = None
    found: str = ""


def list_files(folder: Path, parts: tuple[str, ...]) -> list[OfficialFile]:
    """Class names, hierarchy and verified labels of these splits; copies in `folder` are checked.

    No checksums are published. A copy is complete if its format is right to the last row and its size
    matches the server's, if that is known.

    Cost: one pass over each file: some seconds for the labels of the train split, 9 million rows.
    """
    files = []
    can_ask = True
    for address in [DESCRIPTIONS, HIERARCHY, *(LABELS.format(part=part) for part in PARTS if part in parts)]:
        url = f"{FILES_URL}/{address}"
        published = _ask_size(url) if can_ask else None
        can_ask = published is not None  # wait only once for a missing network
        files.append(_look_at(folder / address.rpartition("/")[2], address, url, published))
    return files


def fetch_missing(files: list[OfficialFile], progress: Progress) -> None:
    """Download the missing files; an interrupted download resumes.

    Raises:
        DownloadError: a file can't be downloaded. StorageError: it can't be written.
    """
    for file in files:
        if file.state == "missing":
            progress.say(f"downloading {file.url}")
            fetch_file(file.url, file.path, num_bytes=file.published_bytes, progress=progress)


def _ask_size(url: str) -> int | None:
    """The size of the file on the server; None if the server can't be reached."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": USER_AGENT})
    try:
        with urllib.request.urlopen(request, timeout=ASK_SECONDS) as response:
            given = response.headers.get("Content-Length") or ""
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, http.client.HTTPException):
        return None
    return int(given) if given.isdigit() else None


def _look_at(path: Path, address: str, url: str, published: int | None) -> OfficialFile:
    if not path.is_file():
        return OfficialFile(path.name, url, path, "missing", published_bytes=published)
    num_bytes = path.stat().st_size
    try:
        found = _check(path, address)
        if published is not None and published != num_bytes:
            raise DataError(f"{path} has {num_bytes:,} bytes, but the published file has {published:,}")
    except DataError as error:
        return OfficialFile(path.name, url, path, "damaged", num_bytes, published, str(error))
    return OfficialFile(path.name, url, path, "there", num_bytes, published, found)


def _check(path: Path, address: str) -> str:
    """Describe the content; DataError if it does not match the file's name."""
    if address == DESCRIPTIONS:
        return count(len(read_names([path])), "class name")
    if address == HIERARCHY:
        return f"the kinds of {count(len(read_parents(path)), 'label')}"
    rows = read_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if header != COLUMNS:
        raise DataError(f"{path}: its first row is {','.join(header)[:80]!r}, not {','.join(COLUMNS)}")
    images: set[str] = set()
    num_rows = 0
    for number, row in rows:
        if len(row) != len(COLUMNS):
            raise DataError(
                f"{path}, row {number}: {count(len(row), 'field')}, not {len(COLUMNS)}. The file may be truncated."
            )
        images.add(row[0])
        num_rows += 1
    if not num_rows:
        raise DataError(f"{path}: it has no rows below the header")
    return f"{count(num_rows, 'label')} of {count(len(images), 'image')}"
