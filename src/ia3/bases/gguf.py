"""A GGUF file as a base: converted once into an ordinary model folder in the cache, keyed by its sha256.

transformers takes most of a minute to read such a file (Gemma-3-270M: 13 s for the config, 3 s for the tokenizer, 24 s
for the weights, one thread) and three seconds for the folder. The folder holds the dequantised values in fp32: what the
quantisation lost stays lost, and nothing more is lost. It knows nothing of heads, devices or adapters.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ia3.bases.cache import Say, cache_root, content_hash, is_whole, join_files, publish_folder
from ia3.bases.gguf_header import GGUFHeader, read_header
from ia3.bases.gguf_mending import mend_config
from ia3.bases.gguf_tokenizer import mend_tokenizer
from ia3.bases.quiet import quiet
from ia3.errors import BaseError
from ia3.spelling import one_line

# What a converted folder is made by; raised by one when the conversion writes something else, so that old folders are
# made anew.
_CONVERSION = 3


def find_converted(sha256: str) -> Path | None:
    """Return the folder that a GGUF file of this hash was converted into, or None if it is not there whole."""
    folder = _folder_of(sha256)
    return folder if is_whole(folder, _about(sha256)) else None


def convert_gguf(files: Sequence[Path], name: str, say: Say) -> Path:
    """Return the model folder a GGUF file is converted into; the first call converts, later ones find it.

    Args:
        files: The file, or the parts it is split into, in order. Parts are joined in the cache only for the
            conversion.
        name: The base as it is called in messages.
        say: Told when the conversion begins and ends.

    Returns:
        A folder with config, tokenizer and fp32 weights, `from_pretrained`'s format.

    Raises:
        BaseError: If the file is damaged, of a family that transformers does not import, says something that would be
            lost, or the cache cannot be written.
    """
    if len(files) == 1:
        read_header(files[0])  # a file that is none is told so before it is hashed
    sha256 = content_hash(files)
    if folder := find_converted(sha256):
        return folder
    _need_packages(name)

    def fill(partial: Path) -> None:
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        say(
            f"converting {name} ({megabytes:.0f} MB of GGUF) to {_folder_of(sha256)}: once, the dequantised values as "
            f"float32; 250 MB take about 40 seconds"
        )
        source = files[0]
        if len(files) > 1:
            source = partial / "joined.gguf"
            if join_files(files, source) != sha256:
                raise BaseError(
                    f"Converting base {name!r}: {files[0]} or a part after it changed meanwhile. Try again."
                )
        _convert(source, partial, name)
        if source.parent == partial:
            source.unlink()
        say(f"converted {name}")

    return publish_folder(_folder_of(sha256), fill, _about(sha256), say)


def _folder_of(sha256: str) -> Path:
    return cache_root() / "gguf" / sha256


def _about(sha256: str) -> dict[str, Any]:
    return {"conversion": _CONVERSION, "gguf_sha256": sha256, "dtype": "float32"}


def _need_packages(name: str) -> None:
    """Say which packages are missing before transformers fails one at a time."""
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise BaseError(
            f"Loading base {name!r}: reading a GGUF file needs {' and '.join(missing)}. "
            f"Run pip install {' '.join(missing)}."
        )


def _convert(source: Path, target: Path, name: str) -> None:
    """Read a whole GGUF file and save it as a model folder."""
    header = read_header(source)
    model, tokenizer = _read(source, header, name)
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _read(source: Path, header: GGUFHeader, name: str) -> tuple[Any, Any]:
    """Return model and tokenizer of a GGUF file, the config mended."""
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        # The bar of the dequantisation is made with tqdm itself and heeds no setting of transformers.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            config = AutoConfig.from_pretrained(**place)
            mend_config(config, header)
            tokenizer = mend_tokenizer(_read_tokenizer(place, config), header)
            auto = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
            model, info = auto.from_pretrained(
                **place, config=config, dtype=torch.float32, output_loading_info=True, **_dequantise()
            )
    except BaseError:
        raise
    except Exception as error:  # whatever a parser in transformers, gguf or numpy stumbles over
        architecture = header.fields["general.architecture"]
        raise BaseError(
            f"Converting the GGUF file {source} of base {name!r}: transformers {transformers.__version__} cannot read "
            f"this file of the family {architecture!r}: {one_line(error, 300)}. Use the model's own "
            f"folder or hub id."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise BaseError(
            f"Converting the GGUF file {source} of base {name!r}: {len(missing)} weights are not in it, first "
            f"{missing[0]!r}. Use the model's own folder or hub id."
        )
    _forget_quantisation(model)
    return model, tokenizer


def _read_tokenizer(place: dict[str, str], config: Any) -> Any:
    """Return the tokenizer in a GGUF file.

    Told the family, transformers need not read the config again only to find the tokenizer's class (14 of 17 s for
    Gemma-3-270M); both ways give the same tokenizer.
    """
    with contextlib.suppress(ValueError):  # a family without a tokenizer class of its own
        return AutoTokenizer.from_pretrained(**place, tokenizer_type=config.model_type)
    return AutoTokenizer.from_pretrained(**place)


def _dequantise() -> dict[str, Any]:
    """Return the argument that keeps newer transformers from leaving weights in their quantised blocks."""
    settings = getattr(transformers, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}


def _forget_quantisation(model: Any) -> None:
    """Take off what transformers leaves on a model from a GGUF file although its weights are plain.

    With it the model refuses to be saved, and a config saved with it makes the folder refuse to be loaded.
    """
    for holder in (model, model.config):
        for left in ("hf_quantizer", "quantization_method", "quantization_config", "_model_name_or_path"):
            holder.__dict__.pop(left, None)
    model.is_quantized = False
    model.config.name_or_path = ""  # the folder of the file: a path of this machine
