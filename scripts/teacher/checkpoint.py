"""Reads a PyTorch checkpoint with numpy alone, running nothing that the file names.

A `.pth` file is a pickle, and a pickle may name any function to be called. This reader answers
only the names that a plain dictionary of tensors needs and refuses all others.
"""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

DTYPES = {"FloatStorage": np.float32, "HalfStorage": np.float16, "LongStorage": np.int64, "IntStorage": np.int32}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Tensor:
    """A tensor whose numbers are still in the file: a strided window onto a storage."""

    storage: str
    dtype: type[np.generic]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def window(self, storage: np.ndarray) -> np.ndarray:
        """The tensor's own copy of its numbers; checked to lie within the storage."""
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if (
            min(self.shape, default=1) < 1
            or self.offset < 0
            or min(self.strides, default=0) < 0
            or last >= storage.size
        ):
            raise ValueError(f"a tensor of shape {self.shape} does not lie within its storage of {storage.size}")
        strides = [step * storage.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides).copy()


class Restricted(pickle.Unpickler):
    """An unpickler that knows tensors, storages and dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")

    def persistent_load(self, pid: tuple[Any, ...]) -> tuple[str, type[np.generic]]:
        _, dtype, key, *_ = pid
        return key, dtype


def _rebuild_tensor(storage: tuple[str, type], offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    key, dtype = storage
    return Tensor(key, dtype, offset, tuple(shape), tuple(strides))


def load(path: Path) -> dict[str, np.ndarray]:
    """A state dictionary: name to array. Both the zip format and the one before it are read."""
    if zipfile.is_zipfile(path):
        return _load_zip(path)
    with path.open("rb") as file:
        return _load_legacy(file)


def _load_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        base = index.removesuffix("data.pkl")
        tensors: dict[str, Tensor] = Restricted(archive.open(index)).load()
        return {
            name: tensor.window(np.frombuffer(archive.read(f"{base}data/{tensor.storage}"), tensor.dtype))
            for name, tensor in tensors.items()
        }


def _load_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """Magic number, protocol, machine, dictionary, storage keys, each a pickle; then the storages in turn."""
    if Restricted(file).load() != LEGACY_MAGIC:
        raise ValueError("not a PyTorch checkpoint")
    Restricted(file).load()
    Restricted(file).load()
    tensors: dict[str, Tensor] = Restricted(file).load()
    dtypes = {tensor.storage: tensor.dtype for tensor in tensors.values()}
    storages = {}
    for key in Restricted(file).load():
        dtype = np.dtype(dtypes[key])
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: tensor.window(storages[tensor.storage]) for name, tensor in tensors.items()}
