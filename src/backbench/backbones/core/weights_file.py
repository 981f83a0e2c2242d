"""Opens a weights file of any common kind, without ever running code from it; names what it can't read.

`open_weights` gives what the file holds: named tensors, or containers with such in them. `checkpoint.py` finds the
network among these.
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
"""In the names of weights that are split over several files."""


class _Aside:
    """Stands for settings and figures in a checkpoint, which are passed over: it keeps and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _AsDict:
    """Stands for the dictionaries of other libraries: what is made is a plain one."""

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
"""What trainers put beside weights. None of these is what its name says: a stand-in can do no harm."""


def open_weights(path: Path) -> object:
    """What a weights file holds, tensors on the CPU.

    Safetensors (whole, or parts by their index) are read as such, everything else by torch's restricted loader,
    which builds tensors and plain containers only. Which of these it is, its content says and not its name.

    Raises:
        ModelError: damaged, of another kind, or one that would run code when unpickled; says how to convert it.
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
    """ModelError for one part of weights that are split over several files."""
    found = _PART.search(path.name)
    if found is None or int(found[2]) == 1:
        return
    indices = sorted(other.name for other in path.parent.glob(f"*{INDEX_SUFFIX}"))
    way = (
        f"Write weights = '{indices[0]}' into the card."
        if indices
        else f"Put all parts and their index (model.safetensors{INDEX_SUFFIX}) into a folder, and name the index."
    )
    raise ModelError(f"{path} is part {int(found[1])} of {int(found[2])} of the weights. {way}")


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
    """Raises ModelError for a safetensors file that is damaged or shorter than it says; reads its header alone."""
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
    return ModelError(f"{path} is not a whole safetensors file: {tell_reason(error)}. Fetch it again.")


def _name_kind(path: Path, start: bytes) -> str | None:
    """What a file that holds no pickle is, and what to do; None for one that the restricted loader should try."""
    if not start:
        return "an empty file. Fetch it again."
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself. Run 'git lfs pull' in its repository."
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes them. Give weights of PyTorch."
    if start.lstrip()[:1] == b"<":
        return "a web page, not a weights file. Fetch it again; the address may need a login."
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b":"):
        return "an ONNX graph, whose tensors have no names of a network. Give the PyTorch weights it was made of."
    if start[257:262] == b"ustar":
        return "a tar archive. Unpack it, and name the weights file that is in it."
    if start.startswith(b"\x1f\x8b"):
        return "packed with gzip. Unpack it, and name the file that comes out."
    return _name_archive(path) if start.startswith(b"PK") else None


def _name_archive(path: Path) -> str | None:
    """Archives that are no checkpoint, though checkpoints are archives too: cut ones, programs and others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "damaged, or its end is missing: its list of contents can't be read. Fetch or copy it again."
    if any(name.endswith(".weights.h5") for name in names):
        return "a file of Keras. Give weights of PyTorch."
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return (
            "a TorchScript file, which is a program. If you trust it, write its weights to a file of their own:\n"
            f'  model = torch.jit.load("{path.name}", map_location="cpu")\n'
            f'  torch.save(model.state_dict(), "{_converted(path)}")'
        )
    if any("archive_format" in name.rpartition("/")[2] for name in names):
        return (
            "a program of torch.export. If you trust it, write its weights to a file of their own:\n"
            f'  program = torch.export.load("{path.name}")\n'
            f'  torch.save(program.state_dict, "{_converted(path)}")'
        )
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return "a zip archive. Unpack it, and name the weights file that is in it."
    return None


def _open_pickled(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore", UserWarning)  # of newer pickle protocols
            with open_file(path) as stream:  # a path would be read by its suffix
                return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} was refused: {_explain_refusal(path, str(error))}") from error
    except Exception as error:  # a crafted file makes the reader fail in many ways
        reason = tell_reason(error)
        raise ModelError(
            f"{path} is not a readable PyTorch weights file: {reason}. It may be damaged. Fetch it again."
        ) from error


def _explain_refusal(path: Path, told: str) -> str:
    """What in a pickle is no tensor, that it could run code, and the lines that convert it."""
    found = re.search(r"GLOBAL ([\w.]+)", told)
    if found is None:
        return (
            "it is damaged, or holds more than tensors, and such a file can run code when it is opened. Ask its "
            "author for a safetensors file or a plain state_dict."
        )
    name = found[1]
    library = name.partition(".")[0]
    lines = [f'  checkpoint = torch.load("{path.name}", map_location="cpu", weights_only=False)']
    if library == "ultralytics":
        what = f"it holds a whole model of ultralytics ({name})"
        lines.append(f'  torch.save(checkpoint["model"].float().state_dict(), "{_converted(path)}")')
    elif _is_network(name):
        what = f"it holds a whole model ({name}), not the tensors of one"
        lines.append(f'  torch.save(checkpoint.state_dict(), "{_converted(path)}")')
    else:
        what = f"it holds more than tensors: an object of '{name}'"
        lines.append(f'  torch.save(checkpoint["state_dict"], "{_converted(path)}")')
    where = "" if library in ("torch", "__main__") else f" with {library} installed"
    return (
        f"{what}, and such a file can run code when it is opened. If you trust its author, convert it{where}:\n"
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
    """The first line of an error of a library, without escape codes and without a sentence that breaks off."""
    lines = _ESCAPES.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    line = "".join(char for char in lines[0] if char.isprintable()).strip().rstrip(".:,")
    if len(line) <= _LONGEST_REASON:
        return line
    whole, stop, _ = line[:_LONGEST_REASON].rpartition(". ")
    return whole if stop else f"{line[:_LONGEST_REASON].rpartition(' ')[0]} ..."
