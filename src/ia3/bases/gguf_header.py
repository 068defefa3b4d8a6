"""The header of a GGUF file: its metadata and where its tensors lie, without reading the tensors.

Written from the format's description (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), because the `gguf`
package takes six seconds over a vocabulary of 262,144 tokens that nobody here looks at. Arrays are skipped, save short
ones of numbers and those of bytes. It knows nothing of transformers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ia3.errors import BaseError

MAGIC = b"GGUF"
_F32 = 0  # tensor type
_STRING, _ARRAY = 8, 9  # value types without a fixed size
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SHORT = 4096  # an array of at most so many numbers is kept, and one of bytes: how T5's characters are mapped
_BYTES = (0, 1)


def is_gguf(path: Path) -> bool:
    """Return whether an existing file is a GGUF file, by its suffix or its first bytes."""
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_header(path: Path) -> GGUFHeader:
    """Return the header of a GGUF file.

    Raises:
        BaseError: If the file is no GGUF file of version 2 or 3, or ends too early.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != MAGIC:
                raise BaseError(f"Reading the GGUF file {path}: it begins with {magic!r}, expected {MAGIC!r}.")
            version, tensor_count, field_count = _unpack(file, "IQQ")
            if version not in (2, 3):
                raise BaseError(f"Reading the GGUF file {path}: version {version}, expected 2 or 3.")
            fields = dict(_read_field(file) for _ in range(field_count))
            tensors = tuple(_read_tensor(file) for _ in range(tensor_count))
            alignment = int(fields.get("general.alignment", 32))
            data_start = -(-file.tell() // alignment) * alignment
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
        raise _damaged(path, "the header cannot be read to its end") from error
    header = GGUFHeader(path, fields, tensors, data_start)
    if any(data_start + tensor.offset >= path.stat().st_size for tensor in tensors):
        raise _damaged(path, f"it ends before its {tensor_count} tensors do")
    if "general.architecture" not in fields:
        raise _damaged(path, "general.architecture is missing")
    return header


def read_floats(header: GGUFHeader, name: str) -> tuple[float, ...]:
    """Return the values of a one-dimensional fp32 tensor of a GGUF file."""
    tensor = next(t for t in header.tensors if t.name == name)
    if tensor.kind != _F32 or len(tensor.shape) != 1:
        raise BaseError(
            f"Reading the GGUF file {header.path}: tensor {name!r} has type {tensor.kind} and shape {tensor.shape}, "
            f"expected one row of fp32."
        )
    with header.path.open("rb") as file:
        file.seek(header.data_start + tensor.offset)
        return _unpack(file, f"{tensor.shape[0]}f")


def _damaged(path: Path, what: str) -> BaseError:
    """Return the error for a file that is a GGUF file but not a whole one."""
    return BaseError(f"Reading the GGUF file {path}: {what}. The file is damaged; fetch it again.")


def _read_field(file: BinaryIO) -> tuple[str, Any]:
    """Read one key and its value; None for an array that is skipped."""
    key = _read_string(file)
    (value_type,) = _unpack(file, "I")
    return key, _read_value(file, value_type)


def _read_value(file: BinaryIO, value_type: int) -> Any:
    if value_type == _STRING:
        return _read_string(file)
    if value_type != _ARRAY:
        return _unpack(file, _FIXED[value_type])[0]
    element_type, count = _unpack(file, "IQ")
    if element_type in (_STRING, _ARRAY):
        for _ in range(count):
            _read_value(file, element_type)
        return None
    if count <= _SHORT or element_type in _BYTES:
        return _unpack(file, f"{count}{_FIXED[element_type]}")
    file.seek(count * struct.calcsize(_FIXED[element_type]), 1)
    return None


def _read_tensor(file: BinaryIO) -> GGUFTensor:
    name = _read_string(file)
    (dimensions,) = _unpack(file, "I")
    shape = _unpack(file, f"{dimensions}Q")
    kind, offset = _unpack(file, "IQ")
    return GGUFTensor(name, tuple(reversed(shape)), kind, offset)  # the format counts the fastest axis first


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(length).decode("utf-8", errors="replace")


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a GGUF file: its name, shape in torch's order, ggml type and offset in the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says about itself.

    Attributes:
        path: The file.
        fields: Metadata by full key; an array that was skipped is None.
        tensors: In the order of the file.
        data_start: Where the tensors' offsets count from, in bytes.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: tuple[GGUFTensor, ...]
    data_start: int

    def field(self, key: str) -> Any:
        """Return the metadata value `<architecture>.<key>`, or None."""
        return self.fields.get(f"{self.fields['general.architecture']}.{key}")
