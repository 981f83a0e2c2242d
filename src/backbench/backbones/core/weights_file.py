"""Open a weights file of any common kind without running code from it; unsupported kinds are named.

`open_weights` returns the content: named tensors, or containers of them. `checkpoint.py` finds the network in
it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from backbench.backbones.shards import INDEX_SUFFIX, list_parts
from backbench.errors import ModelError
from backbench.storage import open_file, unreadable_as

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST_REASON = 200
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.")
"""Pattern in the names of weights that are split over several files."""


class _Aside:
    """A stand-in for settings and metrics in a checkpoint, which are ignored: stores and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _AsDict:
    """A stand-in for dictionaries of other libraries: makes a plain dictionary."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


_PASSED_OVER = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    ),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "uuid.UUID",
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("list", "dict", "int", "float")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)
_DICTIONARIES = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "addict.addict.Dict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
)
_STAND_INS: list[Any] = [(_Aside, name) for name in _PASSED_OVER] + [(_AsDict, name) for name in _DICTIONARIES]
"""Classes that trainers save beside weights, each replaced by a harmless stand-in."""


def open_weights(path: Path) -> object:
    """Read the content of a weights file, tensors on the CPU.

    Safetensors files (single, or shards with an index) are read directly, everything else by torch's restricted
    loader, which builds only tensors and plain containers. The content decides the kind, not the name.

    Raises:
        ModelError: the file is damaged, of another kind, or would run code when unpickled; the message says how to
            convert it.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _open_parts(path)
    _refuse_part(path)
    return _open_file(path)


def _open_file(path: Path) -> object:
    start = _read_start(path)
    if start[8:9] == b"{":
        return _open_safetensors(path)
    other = _name_kind(path, start)
    if other is not None:
        raise ModelError(f"{path} is {other}")
    is_pickled = start.startswith((b"PK", b"\x80"))
    return _open_safetensors(path) if path.suffix == ".safetensors" and not is_pickled else _open_pickled(path)


def _read_start(path: Path) -> bytes:
    with unreadable_as(ModelError, path), open_file(path) as stream:
        return stream.read(512)


def _refuse_part(path: Path) -> None:
    """Raise ModelError for one shard of weights that are split over several files."""
    found = _PART.search(path.name)
    if found is None or int(found[2]) == 1:
        return
    indices = sorted(other.name for other in path.parent.glob(f"*{INDEX_SUFFIX}"))
    way = (
        f"Write weights = '{indices[0]}' into the card."
        if indices
        else f"Put all shards and their index (model.safetensors{INDEX_SUFFIX}) into a folder, and give the index."
    )
    raise ModelError(f"{path} is shard {int(found[1])} of {int(found[2])} of the weights. {way}")


def _open_parts(path: Path) -> object:
    whole: dict[str, Any] = {}
    for part in list_parts(path):
        held = _open_file(part)
        if isinstance(held, dict):
            whole |= held
    return whole


def _open_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _not_whole(path, error) from error


def check_whole(path: Path) -> None:
    """Raise ModelError for a safetensors file that is damaged or truncated; reads only its header."""
    from safetensors import SafetensorError, safe_open

    start = _read_start(path)
    other = None if start[8:9] == b"{" else _name_kind(path, start)
    if other is not None:
        raise ModelError(f"{path} is {other}")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is not a complete safetensors file: {tell_reason(error)}. Download it again.")


def _name_kind(path: Path, start: bytes) -> str | None:
    """Name the kind of a file without a pickle, with a remedy; None if the restricted loader should try it."""
    if not start:
        return "an empty file. Download it again."
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself. Run 'git lfs pull' in its repository."
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, such as Keras writes. Give PyTorch weights."
    if start.lstrip()[:1] == b"<":
        return "a web page, not a weights file. Download it again; the URL may need a login."
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b":"):
        return (
            "an ONNX graph, without the tensor names of a network. Give the PyTorch weights that it was made from."
        )
    if start[257:262] == b"ustar":
        return "a tar archive. Unpack it, and give the weights file in it."
    if start.startswith(b"\x1f\x8b"):
        return "compressed with gzip. Unpack it, and give the unpacked file."
    return _name_archive(path) if start.startswith(b"PK") else None


def _name_archive(path: Path) -> str | None:
    """Name zip archives that are not checkpoints: truncated ones, programs and others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "damaged or truncated: its list of contents can't be read. Download or copy it again."
    if any(name.endswith(".weights.h5") for name in names):
        return "a file of Keras. Give PyTorch weights."
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return (
            "a TorchScript file, which is a program. If you trust it, save its weights to a separate file:\n"
            f'  model = torch.jit.load("{path.name}", map_location="cpu")\n'
            f'  torch.save(model.state_dict(), "{_converted(path)}")'
        )
    if any("archive_format" in name.rpartition("/")[2] for name in names):
        return (
            "a program of torch.export. If you trust it, save its weights to a separate file:\n"
            f'  program = torch.export.load("{path.name}")\n'
            f'  torch.save(program.state_dict, "{_converted(path)}")'
        )
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return "a zip archive. Unpack it, and give the weights file in it."
    return None


def _open_pickled(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore", UserWarning)  # of newer pickle protocols
            with open_file(path) as stream:  # torch would read a path by its suffix
                return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} was refused: {_explain_refusal(path, str(error))}") from error
    except Exception as error:  # crafted files make the reader fail in many ways
        reason = tell_reason(error)
        raise ModelError(
            f"{path} is not a readable PyTorch weights file: {reason}. It may be damaged. Download it again."
        ) from error


def _explain_refusal(path: Path, told: str) -> str:
    """Name the object in a pickle that is not a tensor, with a warning and the lines that convert the file."""
    found = re.search(r"GLOBAL ([\w.]+)", told)
    if found is None:
        return (
            "it is damaged, or holds more than tensors and could run code when opened. Ask its author for a "
            "safetensors file or a plain state_dict."
        )
    name = found[1]
    library = name.partition(".")[0]
    lines = [f'  checkpoint = torch.load("{path.name}", map_location="cpu", weights_only=False)']
    if library == "ultralytics":
        what = f"it holds a whole model of ultralytics ({name})"
        lines.append(f'  torch.save(checkpoint["model"].float().state_dict(), "{_converted(path)}")')
    elif _is_network(name):
        what = f"it holds a whole model ({name}), not only its tensors"
        lines.append(f'  torch.save(checkpoint.state_dict(), "{_converted(path)}")')
    else:
        what = f"it holds more than tensors: an object of '{name}'"
        lines.append(f'  torch.save(checkpoint["state_dict"], "{_converted(path)}")')
    where = "" if library in ("torch", "__main__") else f" with {library} installed"
    return (
        f"{what}. Such a file can run code when opened. If you trust its author, convert it{where}:\n"
        + "\n".join(lines)
    )


def _is_network(name: str) -> bool:
    libraries = (
        "torch.nn.modules.",
        "timm.models.",
        "timm.layers.",
        "torchvision.models.",
        "transformers.models.",
    )
    return name.startswith((*libraries, "__main__."))


def _converted(path: Path) -> str:
    return f"{path.name.partition('.')[0]}_weights.pth"


def tell_reason(error: BaseException) -> str:
    """The first line of a library's error, without escape codes and incomplete sentences."""
    lines = _ESCAPES.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    line = "".join(char for char in lines[0] if char.isprintable()).strip().rstrip(".:,")
    if len(line) <= _LONGEST_REASON:
        return line
    whole, stop, _ = line[:_LONGEST_REASON].rpartition(". ")
    return whole if stop else f"{line[:_LONGEST_REASON].rpartition(' ')[0]} ..."
