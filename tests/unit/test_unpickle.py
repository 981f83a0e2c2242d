"""A pickle is a program: none of it may run, whatever it says."""

from __future__ import annotations

import contextlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from backbench.data import unpickle
from backbench.data.unpickle import read_plain_pickle
from backbench.errors import DataError


class Call:
    """Pickled as a call of `function(*values)`."""

    def __init__(self, function: object, *values: object) -> None:
        self.function, self.values = function, values

    def __reduce__(self) -> tuple:
        return self.function, self.values


def named(module: str, name: str, *arguments: bytes) -> bytes:
    """A protocol 2 program that calls module.name on byte strings."""
    values = b"".join(b"U" + bytes([len(text)]) + text for text in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + values + b"tR."


def test_containers_numbers_strings_and_arrays_are_read() -> None:
    value = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], b"name": b"x", b"half": 0.5}
    for protocol in (0, 1, 2, 3, 4):
        found = read_plain_pickle(pickle.dumps(value, protocol), "batch")
        assert np.array_equal(found.pop(b"data"), value[b"data"])
        assert found == {b"labels": [1, 2], b"name": b"x", b"half": 0.5}


def test_a_pickle_as_python_2_and_an_old_numpy_wrote_it_is_read() -> None:
    """The very instructions of the published batches, checked against a copy of one."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", 6) + bytes(range(6)) + b"tb"
    )
    program = b"\x80\x02}q\x04(U\x06labels]q\x05(K\x06K\x09eU\x04data" + array + b"u."
    found = read_plain_pickle(program, "batch")
    assert found[b"labels"] == [6, 9]
    assert found[b"data"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_fortran_ordered_array_keeps_its_rows() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    found = read_plain_pickle(pickle.dumps({b"data": values}, 2), "batch")
    assert np.array_equal(found[b"data"], values)


def hostile(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Case -> (pickle, what the refusal must say): each defence has cases that only it stops."""
    touch = f"touch {canary}".encode()
    code = f"open({str(canary)!r}, 'w')".encode()
    short = bytes([len(touch)]) + touch
    good = pickle.dumps({b"data": np.zeros((1, 3), np.uint8)}, 2)
    objects = np.array([canary], dtype=object)
    return {
        "os.system": (named("os", "system", touch), "names 'os.system'"),
        "posix.system": (named("posix", "system", touch), "names 'posix.system'"),
        "subprocess": (named("subprocess", "getoutput", touch), "names 'subprocess.getoutput'"),
        "eval": (named("builtins", "eval", code), "names 'builtins.eval'"),
        "eval of Python 2": (named("__builtin__", "eval", code), "names '__builtin__.eval'"),
        "exec": (named("builtins", "exec", code), "names 'builtins.exec'"),
        "open": (named("builtins", "open", str(canary).encode(), b"w"), "names 'builtins.open'"),
        "getattr": (named("builtins", "getattr", b"x", b"upper"), "names 'builtins.getattr'"),
        "numpy that runs": (named("numpy.testing._private.utils", "runstring", code, b""), "runstring'"),
        "numpy that reads pickles": (named("numpy", "load", str(canary).encode()), "names 'numpy.load'"),
        "numpy scalar": (named("numpy.core.multiarray", "scalar", b"x"), "multiarray.scalar'"),
        "importlib": (named("importlib", "import_module", b"antigravity"), "import_module'"),
        "codecs": (named("codecs", "open", str(canary).encode(), b"w"), "names 'codecs.open'"),
        "dotted name": (pickle.dumps(Call(Path.touch, canary), 4), "names 'pathlib.Path.touch'"),
        "path": (pickle.dumps(canary, 2), "PosixPath'|WindowsPath'"),
        "INST": (b"(U" + short + b"ios\nsystem\n.", "names 'os.system'"),
        "OBJ": (b"(cos\nsystem\nU" + short + b"o.", "names 'os.system'"),
        "NEWOBJ": (b"\x80\x02cpathlib\nPath\n)\x81.", "names 'pathlib.Path'"),
        "NEWOBJ of a stand-in": (b"\x80\x02cnumpy\nndarray\n)\x81.", "must be a type"),
        "EXT1": (b"\x80\x02\x82\x01.", "unregistered extension"),
        "pointer outside": (b"\x80\x02U\x05thereQ.", "object outside"),
        "text pointer outside": (b"Pthere\n.", "object outside"),
        "set on a function": (b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__)s\x86b.", "changes a function"),
        "set on a class": (b"\x80\x02cnumpy\ndtype\nN}U\x05evil_K\x01s\x86b.", "changes a function"),
        "array of objects": (pickle.dumps({b"data": objects}, 2), "not uint8"),
        "array of floats": (pickle.dumps({b"data": np.zeros(2)}, 2), "not uint8"),
        "array too large": (good.replace(b"K\x01K\x03\x86", b"K\x09K\x03\x86"), "shape does not fit"),
        "negative array": (
            good.replace(b"K\x01K\x03\x86", b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
            "shape does not fit",
        ),
        "memo of 64 GB": (b"\x80\x02}r\xf0\xff\xff\xff.", "memo index"),
        "string of 2 GB": (b"\x80\x02T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        "nothing": (b"", "damaged"),
        "no pickle": (b"<html>not found</html>", "unknown"),
        "cut": (good[:-10], "damaged"),
        "a list": (pickle.dumps([1, 2], 2), "no dictionary"),
        "unhashable key": (b"\x80\x02}]K\x01s.", "unhashable"),
        "unknown encoding": (named("_codecs", "encode", b"x", b"rot13"), "unknown encoding"),
    }


CASES = sorted(hostile(Path("canary")))


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(case: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program, reason = hostile(canary)[case]
    before = dict(unpickle.STAND_INS), unpickle._encode.__defaults__
    with pytest.raises(DataError, match=reason) as caught:
        read_plain_pickle(program, "test_batch")
    assert str(caught.value).startswith("test_batch: this pickle is damaged or not the expected data set")
    assert not canary.exists()
    assert (dict(unpickle.STAND_INS), unpickle._encode.__defaults__) == before


def test_the_canary_would_show(tmp_path: Path) -> None:
    """The hostile pickles are not harmless by themselves."""
    canary = tmp_path / "canary"
    pickle.loads(hostile(canary)["posix.system"][0])
    assert canary.exists()


def test_random_damage_gives_a_value_or_one_error(test_scale: float) -> None:
    good = pickle.dumps({b"data": np.arange(30, dtype=np.uint8).reshape(2, 15), b"labels": [1, 2]}, 2)
    rng = np.random.default_rng(0)
    for _ in range(round(400 * test_scale)):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(DataError):
            assert isinstance(read_plain_pickle(bytes(data), "batch"), dict)
