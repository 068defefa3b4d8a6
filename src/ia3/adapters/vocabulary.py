"""A vocabulary that an adapter brings: tokens were added where it was trained, and the embeddings lie in its file.

All adapters of a bank share the base's embeddings, so these cannot be one adapter's: where the base is loaded for the
adapter, it is given them, resized, and the tokenizer of the adapter's folder with it. On a base that is there already
such an adapter is refused, unless the embeddings are that base's own. Embeddings of the base's own size that
`modules_to_save` names are a head like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.bases.loading import Base, with_tokenizer
from ia3.core.weights import Weights
from ia3.errors import AdapterError

_TAKEN = "_ia3_vocabulary"  # on a model: the paths of the embeddings that it was given
_TOKENIZER = "tokenizer_config.json"  # with it PEFT's Auto classes take a tokenizer to be there


def find_vocabulary(adapter: Adapter, model: Any) -> dict[str, Tensor]:
    """Return the embeddings in an adapter's file by their paths, if they have other rows than a model's."""
    names = [name.removesuffix(".weight") for name in adapter.head if name.endswith(".weight")]
    given = {path: adapter.head[f"{path}.weight"] for path in names if _is_embedding(model, path)}
    return given if any(len(weight) != _rows(model, path) for path, weight in given.items()) else {}


def take_vocabulary(adapter: Adapter, model: Any) -> None:
    """Give a model that was loaded for an adapter the embeddings that the adapter's file holds, if they are others.

    Args:
        adapter: The adapter.
        model: A model without a bank; resized in place.

    Raises:
        AdapterError: If it holds one of two layers that share their weights, trained apart from the other.
    """
    vocabulary = find_vocabulary(adapter, model)
    if not vocabulary:
        return
    _check_tied(adapter, model, vocabulary)
    rows = max(map(len, vocabulary.values()))
    is_trained = any(parameter.requires_grad for parameter in model.parameters())
    model.resize_token_embeddings(rows, mean_resizing=False)
    if len({id(model.get_submodule(path).weight) for path in vocabulary}) < _count_different(vocabulary):
        output = model.get_output_embeddings()  # tied in the base, and two in the file
        output.weight = nn.Parameter(output.weight.detach().clone())
    if len({id(model.get_submodule(path).weight) for path in vocabulary}) > 1:
        model.config.tie_word_embeddings = False
    with torch.no_grad():
        for path, weight in vocabulary.items():
            module = model.get_submodule(path)
            module.weight.copy_(weight)
            for name, own in module.named_parameters(recurse=False):
                own.requires_grad_(is_trained)
                if name != "weight" and f"{path}.{name}" in adapter.head:
                    own.copy_(adapter.head[f"{path}.{name}"])
    setattr(model, _TAKEN, tuple(vocabulary))


def _check_tied(adapter: Adapter, model: Any, vocabulary: Mapping[str, Tensor]) -> None:
    output = model.get_output_embeddings()
    is_tied = output is not None and output.weight is model.get_input_embeddings().weight
    (path, *others) = vocabulary
    if is_tied and not others and _is_saved_whole(adapter, path):
        raise AdapterError(
            f"Loading the base of an adapter: modules_to_save has {path!r} with other rows than the base's, and the "
            "layer that shares its weights in the base is not in the file, expected both. Train it again with both "
            "named, or with PEFT's ensure_weight_tying."
        )


def with_vocabulary(base: Base, adapter: Adapter, folder: Path | None, say: Callable[[str], None]) -> Base:
    """Return a base that was loaded for an adapter with the tokens that the adapter brings, if it brings some.

    Args:
        base: The base; its model is resized in place.
        adapter: The adapter.
        folder: Its folder, whose tokenizer is used where there is one; None for one in a packed store.
        say: Told that there are tokens, and no tokenizer that knows them.

    Raises:
        BaseError: If the tokenizer cannot be read.
    """
    take_vocabulary(adapter, base.model)
    if folder is not None and (folder / _TOKENIZER).is_file():
        return with_tokenizer(base, folder)
    taken = taken_paths(base.model)
    if taken:
        say(
            f"The adapter brings embeddings of {_rows(base.model, taken[0])} tokens and no tokenizer. "
            f"That of the base, with {len(base.tokenizer)}, is used, which knows none that were added: save theirs in "
            "the adapter's folder (tokenizer.save_pretrained)."
        )
    return base


def taken_paths(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the embeddings that a model was given by `take_vocabulary`."""
    return tuple(getattr(model, _TAKEN, ()))


def taken_vocabulary(model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Return the embeddings that a model was given, by their names in it, as they are saved with its adapters."""
    found: dict[str, Tensor] = {}
    for path in taken_paths(model):
        found |= weights.tensors_of(path, f"Saving the embeddings {path!r}")
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def vocabulary_fault(adapter: Adapter, model: nn.Module) -> str | None:
    """Return why an adapter's embeddings cannot be put on a model that is there, if they are of other tokens."""
    for path, weight in find_vocabulary(adapter, model).items():
        return (
            f"it brings embeddings of its own ({path!r}), of {len(weight)} tokens, and this base has "
            f"{_rows(model, path)}: tokens were added where it was trained. All adapters on one model share its "
            "vocabulary, so the base must be loaded for this one: ia3.load(folder), ia3.peft's AutoPeftModel…, or "
            "'ia3 predict', 'evaluate', 'generate' and 'merge' with the name of the base"
        )
    return None


def is_shared_vocabulary(adapter: Adapter, model: nn.Module, path: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether what an adapter's file holds for a path are the embeddings that the model has, and no head."""
    if _is_saved_whole(adapter, path) or not _is_embedding(model, path):
        return False
    own = Weights(model).tensors_of(path, f"Comparing {path!r} with the base's own")
    return all(_is_same(own.get(f"{path}.{name}"), tensor) for name, tensor in tensors.items())


def _is_saved_whole(adapter: Adapter, path: str) -> bool:
    return path.endswith(tuple(adapter.config.modules_to_save or ()))


def _is_same(own: Tensor | None, given: Tensor) -> bool:
    return own is not None and own.shape == given.shape and torch.equal(own.cpu(), given.to(own.dtype))


def _is_embedding(model: Any, path: str) -> bool:
    """Whether a path is that of a model's embeddings, or of its output layer."""
    getters = (getattr(model, name, None) for name in ("get_input_embeddings", "get_output_embeddings"))
    found = [get() for get in getters if get is not None]
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return any(module is embeddings for embeddings in found)


def _rows(model: Any, path: str) -> int:
    return len(model.get_submodule(path).weight)


def _count_different(vocabulary: Mapping[str, Tensor]) -> int:
    first, *others = vocabulary.values()
    return 1 + sum(not _is_same(first, other) for other in others)
