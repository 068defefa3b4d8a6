"""A local folder as a base: its config, and every fault it may have told in one sentence before transformers sees it.

transformers answers a missing tokenizer with an empty one and a cut file with a parser's message. It knows files, not
models: nothing here reads a weight.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers import __version__ as transformers_version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ia3.bases.faults import cause_of
from ia3.bases.quiet import quiet
from ia3.bases.revisions import at_revision
from ia3.errors import BaseError, near_matches
from ia3.names import CONFIG_FILE, MODEL_FILE


def is_base_folder(folder: Path) -> bool:
    """Return whether a folder looks like a saved model: it has a config."""
    return (folder / MODEL_FILE).is_file()


def read_config(folder: Path, name: str) -> Any:
    """Return the transformers config of a folder.

    Args:
        folder: An existing folder.
        name: The base as it is called in errors.

    Raises:
        BaseError: If the folder holds an adapter, or no config, or one that transformers does not understand.
    """
    if (folder / CONFIG_FILE).is_file():
        raise _is_an_adapter(folder, name)
    if not is_base_folder(folder):
        ggufs = sorted(folder.glob("*.gguf"))
        cure = f"Give the file: {ggufs[0]}." if ggufs else "Give a folder written by save_pretrained."
        raise BaseError(f"Loading base {name!r}: {folder} has no {MODEL_FILE}. {cure}")
    raw = _read_json(folder / MODEL_FILE, name)
    if "model_type" not in raw:
        raise BaseError(
            f"Loading base {name!r}: {folder / MODEL_FILE} has no key 'model_type', expected a model's config."
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a config it cannot take
        raise _bad_config(folder / MODEL_FILE, str(raw["model_type"]), name, error) from error
    config.name_or_path = name  # for errors; from_pretrained writes it anew
    return config


def check_weights(folder: Path, name: str) -> None:
    """Check that a folder's weight files are there and whole, by their headers and sizes.

    Raises:
        BaseError: If there are none, or one is missing or cut short.
    """
    files = [folder / file for file in _weight_files(folder, name)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise BaseError(
            f"Loading base {name!r}: {len(missing)} of the {len(files)} weight files that the index in {folder} names "
            f"are missing, first {missing[0]}. Fetch them again."
        )
    for file in files:
        if file.suffix == ".safetensors":
            _read_safetensors_header(file, name)


def stored_dtype(folder: Path, name: str) -> torch.dtype:
    """Return the number type in which a base is what it is in float32, with as few weights as can be copied.

    It is what most numbers of the weight files have: they can stay in their files until they are read. A model whose
    numbers would be rounded twice that way, or a file of which it cannot be told, gets float32.

    Raises:
        BaseError: If a file is cut short.
    """
    counts: Counter[torch.dtype] = Counter()
    for file in (folder / file for file in _weight_files(folder, name)):
        counts.update(_dtypes_in(file, name))
    most = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    is_mixed_half = most == torch.float16 and len(counts) > 1
    return torch.float32 if most == torch.float64 or is_mixed_half else most


def _dtypes_in(file: Path, name: str) -> Counter[torch.dtype]:
    """Return how many numbers of each floating type a weight file holds; nothing where it cannot be told."""
    counts: Counter[torch.dtype] = Counter()
    if file.suffix == ".safetensors":
        for tensor in _read_safetensors_header(file, name).values():
            if tensor["dtype"] in _FLOATS:
                counts[_FLOATS[tensor["dtype"]]] += math.prod(tensor["shape"])
        return counts
    try:
        loaded: Any = torch.load(file, map_location="meta", weights_only=True, mmap=True)
        for tensor in loaded.values():
            if tensor.is_floating_point():
                counts[tensor.dtype] += tensor.numel()
    except Exception:  # of an old or damaged file; transformers says it better
        return Counter()
    return counts


_FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def has_own_head(folder: Path) -> bool | None:
    """Return whether a language model's checkpoint holds `lm_head.weight`, or None where only loading could tell.

    What it holds may still equal the embeddings; loading then ties them.
    """
    try:
        files = _weight_files(folder, str(folder))
        index = [folder / f"{stem}.index.json" for stem in ("model.safetensors", "pytorch_model.bin")]
        for file in index:
            if file.is_file():
                return "lm_head.weight" in _read_json(file, str(folder))["weight_map"]
        if files[0].endswith(".safetensors"):
            return "lm_head.weight" in _read_safetensors_header(folder / files[0], str(folder))
    except (BaseError, KeyError):
        pass
    return None


def load_tokenizer(folder: Path, name: str) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        BaseError: If there is none, or it cannot be read.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as many kinds as there are tokenizers
        if any(folder.glob("*token*")):
            raise BaseError(
                f"Loading base {name!r}: its tokenizer in {folder} cannot be read: {cause_of(error)}. "
                f"Save it again beside the weights with tokenizer.save_pretrained."
            ) from error
        raise _no_tokenizer(folder, name) from error
    # Without its files transformers gives an empty tokenizer (BERT 5 tokens, Gemma 5), not an error [run, 5.23].
    expected = set(tokenizer.vocab_files_names.values())
    if expected and not any((folder / file).is_file() for file in expected | {"tokenizer.json"}):
        raise _no_tokenizer(folder, name)
    return tokenizer


def _weight_files(folder: Path, name: str) -> list[str]:
    """Return the names of the weight files that transformers will read from a folder."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (folder / file).is_file():
            return [file]
        index = folder / f"{file}.index.json"
        if index.is_file():
            weight_map = _read_json(index, name).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise BaseError(
                    f"Loading base {name!r}: {index} has no 'weight_map', expected the file of each weight."
                )
            return sorted(set(weight_map.values()))
    others = sorted(
        p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".gguf", ".h5", ".msgpack")
    )
    seen = f", got {', '.join(others[:4])}" if others else ""
    raise BaseError(
        f"Loading base {name!r}: {folder} has no weights{seen}, expected model.safetensors or pytorch_model.bin. "
        f"Save the model there with save_pretrained."
    )


def _read_safetensors_header(file: Path, name: str) -> Mapping[str, Any]:
    """Return the header of a safetensors file: eight bytes of length, then JSON with each tensor's place."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: Any = json.loads(stream.read(length)) if length < size else None
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        expected = 8 + length + max((value["data_offsets"][1] for value in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise BaseError(
            f"Loading base {name!r}: {file} is not a safetensors file or is cut short, got {size:,} bytes. Fetch it "
            f"again."
        ) from error
    if size != expected:
        raise BaseError(f"Loading base {name!r}: {file} has {size:,} bytes, expected {expected:,}. Fetch it again.")
    return tensors


def _read_json(file: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BaseError(
            f"Loading base {name!r}: {file} is not JSON, line {error.lineno} column {error.colno}: {error.msg}. "
            f"Fetch it again."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"Loading base {name!r}: {file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise BaseError(f"Loading base {name!r}: {file} holds a JSON {type(content).__name__}, expected an object.")
    return content


def _bad_config(file: Path, model_type: str, name: str, error: Exception) -> BaseError:
    if model_type not in CONFIG_MAPPING_NAMES:
        return BaseError(
            f"Loading base {name!r}: {file} has model_type {model_type!r}, which transformers {transformers_version} "
            f"does not know.{near_matches(model_type, CONFIG_MAPPING_NAMES)} Models that bring their own code are not "
            f"run."
        )
    return BaseError(f"Loading base {name!r}: {file} is not a {model_type!r} config: {cause_of(error)}.")


def _is_an_adapter(folder: Path, name: str) -> BaseError:
    raw = _read_json(folder / CONFIG_FILE, name)
    base = raw.get("base_model_name_or_path")
    base = at_revision(base, raw.get("revision")) if isinstance(base, str) else None
    return BaseError(
        f"Loading base {name!r}: {folder} holds an adapter ({raw.get('peft_type', 'of unknown type')}), not a base. "
        + (f"It was made on {base!r}; give that one." if base else "Its base is not named in it; give the base.")
    )


def _no_tokenizer(folder: Path, name: str) -> BaseError:
    return BaseError(
        f"Loading base {name!r}: {folder} has no tokenizer (no tokenizer.json nor the files of its kind). "
        f"Save it beside the weights with tokenizer.save_pretrained."
    )
