"""One pass of a base that was just loaded: a config may give modules that do not fit together when they run.

transformers builds a Llama whose queries are no multiple of its keys, and the first batch then ends in a RuntimeError
of torch. It knows models; it knows nothing of files.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import __version__ as transformers_version

from ia3.bases.faults import cause_of
from ia3.bases.limits import limits_of
from ia3.errors import BaseError
from ia3.names import Kind

_TEXT = "a b c d e f"  # CANINE reads nothing shorter than four characters


def check_runs(model: Any, tokenizer: Any, kind: Kind, name: str) -> None:
    """Raise if a base cannot read a short text.

    Args:
        model: The base, in eval mode.
        tokenizer: Its tokenizer. Ids and positions without an embedding are another fault, told elsewhere.
        kind: What it is used as.
        name: The base, for the error.

    Raises:
        BaseError: With what transformers or torch raised.
    """
    ids = list(tokenizer(_TEXT).input_ids) or [tokenizer.pad_token_id]
    start = getattr(model.config, "decoder_start_token_id", None)
    limits = limits_of(model)
    if max(*ids, start or 0) >= (limits.vocabulary or len(tokenizer)) or len(ids) > (limits.reads or len(ids)):
        return
    device = next(model.parameters()).device
    read = torch.tensor([ids], device=device)
    inputs: dict[str, Any] = {"input_ids": read, "attention_mask": torch.ones_like(read)}
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.tensor([[start or 0]], device=device)
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    try:
        with torch.no_grad():
            model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever modules that do not fit together end in
        raise BaseError(
            f"Loading base {name!r} as {kind}: transformers {transformers_version} builds this "
            f"{model.config.model_type!r} model and cannot run it: {type(error).__name__}: {cause_of(error)}. Compare "
            "its config.json with the one that came with the weights, or use another release of transformers."
        ) from error
