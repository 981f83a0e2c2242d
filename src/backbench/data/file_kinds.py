"""Find which files are pictures, by suffix, and for unknown suffixes by their first bytes."""

from __future__ import annotations

from backbench.data.listing import Loss
from backbench.data.sniff import START_BYTES, find_image_format, find_unread_format
from backbench.storage import open_file

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".heic", ".heif", ".hif",
))
OTHER_IMAGE_SUFFIXES = frozenset((
    ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai", ".eps", ".ico", ".tga",
    ".pcx", ".exr", ".hdr", ".dcm", ".nii", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".raf",
    ".orf", ".rw2", ".pef", ".srw", ".3fr", ".iiq", ".x3f", ".raw",
))
PLAIN_SUFFIXES = frozenset((  # frequent files that are clearly not pictures; not opened
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".md",
    ".rst", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".sh", ".m", ".npy", ".npz", ".mat", ".pkl", ".h5",
    ".hdf5", ".parquet", ".pt", ".pth", ".ckpt", ".onnx", ".safetensors", ".zip", ".tar", ".gz", ".tgz", ".xz",
    ".7z", ".rar", ".db", ".sqlite", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".mp4", ".mov",
    ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mp3", ".wav", ".aae", ".xmp", ".shp", ".shx", ".dbf", ".prj",
))
# fmt: on
PACKED = frozenset((".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar"))
LITTER = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin"))
HIDDEN = "a hidden file or a system file"


def is_litter(name: str) -> bool:
    """Whether a name is hidden or that of a file that operating systems create."""
    return name.startswith(".") or name.casefold() in LITTER


def find_suffix(name: str) -> str:
    """The suffix in lower case, '' where there is none."""
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() if stem and "/" not in suffix else ""


def judge_other(path: str, suffix: str) -> tuple[str, Loss]:
    """The reason why a file without a known image suffix is left out, and the kind of loss."""
    if suffix in OTHER_IMAGE_SUFFIXES:
        return f"an unsupported image format ({suffix}): convert it to PNG or JPEG", "unread"
    start = b"" if suffix in PLAIN_SUFFIXES else _read_start(path)
    found, unread = find_image_format(start), find_unread_format(start)
    if found is not None:
        what = f"a name that ends in {suffix}" if suffix else "a name without a suffix"
        return f"looks like a {found} image with {what}: rename it to use it", "picture"
    if unread is not None:
        return unread, "unread"
    return f"not an image file ({suffix or 'no suffix'})", "other"


def _read_start(path: str) -> bytes:
    """The first bytes of a regular file; empty if it can't be read."""
    try:
        with open_file(path) as file:
            return file.read(START_BYTES)
    except OSError:
        return b""
