"""The base of an adapter: loaded as the adapter needs it, its head as wide as the adapter's and with its label names.

Whoever answers with an adapter and whoever merges one load its base here, so that both mean the same labels. This file
knows adapters and configs; it runs no model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ia3.adapters.adapter import Adapter
from ia3.adapters.vocabulary import with_vocabulary
from ia3.bases.heads import label_weights
from ia3.bases.kinds import kind_of, other_problem
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.pooling import set_mean
from ia3.core.labels import name_labels
from ia3.errors import AdapterError, BaseError, SettingsError
from ia3.inference.recorded import is_unnamed


def load_base_of(
    doing: str,
    adapter: Adapter,
    given: str | Path | None,
    labels: Sequence[str] | None,
    *,
    folder: Path | None,
    say: Callable[[str], None],
    **placed: str,
) -> Base:
    """Return the base of an adapter, with the tokens that the adapter brings.

    Args:
        doing: Beginning of an error.
        adapter: The adapter.
        given: Where its base is; None for the place that it names.
        labels: For an encoder, the labels of its head; None for those of the adapter's record, else of its config.
        folder: Where the adapter lies, perhaps with a tokenizer; None for one in a packed store.
        say: Told what takes long or was chosen.
        placed: `dtype`, `device` and `precision`, as `load_base` takes them.

    Raises:
        AdapterError: If it names no base and none is given, or the head of either answers several labels at once, or
            numbers.
        BaseError: If the base cannot be loaded.
        SettingsError: If there are more or fewer labels than its head has outputs.
    """
    name = given or adapter.base_name
    if name is None:
        raise AdapterError(f"{doing}: it does not say which base it is for. Name it: base=… (--base).")
    placed |= {"pooling": adapter.pooling}
    try:
        config = load_config(name, say)
        kind = adapter.kind or kind_of(config)
        if kind != "encoder":
            base = load_base(name, kind=kind, **placed, say=say)  # type: ignore[arg-type]
        else:
            labels = labels or adapter.record.get("labels")
            base = _load_encoder(doing, adapter, name, config, labels, placed, say)
        return with_vocabulary(base, adapter, folder, say)
    except BaseError as error:
        hint = "" if given else " The adapter names this base; if it lies elsewhere, say where: base=… (--base)."
        raise BaseError(f"{error}{hint}") from error


def _load_encoder(
    doing: str,
    adapter: Adapter,
    name: str | Path,
    config: Any,
    labels: Sequence[str] | None,
    placed: dict[str, str],
    say: Callable[[str], None],
) -> Base:
    """Return an encoder whose head is as wide as the adapter's, or its own, and has the labels' names."""
    saved = [str(config.id2label[i]) for i in sorted(config.id2label)]
    problem = None if adapter.record.get("labels") else other_problem(config)  # trained here, it has a head of its own
    if problem is not None:
        raise AdapterError(
            f"{doing}: the classifier of base {str(name)!r} answers {problem}, expected one label of each text. That "
            "is not built yet; use it in Python: ia3.peft.PeftModel.from_pretrained(model, folder)."
        )
    outputs = check_outputs(doing, adapter, config, labels)
    more: dict[str, Any] = {**placed, "kind": "encoder", "say": say}
    if labels is None:
        is_named = outputs in (None, len(saved))
        return load_base(name, **({"labels": saved} if is_named else {"num_labels": outputs}), **more)
    if outputs is None and len(labels) == len(saved) and is_unnamed(saved):
        base = load_base(name, num_labels=len(labels), **more)  # its own classifier, whose outputs are named now
        name_labels(base.model.config, labels)
        return base
    return load_base(name, labels=labels, **more)


def check_outputs(doing: str, adapter: Adapter, config: Any, labels: Sequence[str] | None) -> int | None:
    """Return how many outputs the head of an encoder's adapter has; None if it brings none, or its record has labels.

    Raises:
        AdapterError: If it has one.
        SettingsError: If there are labels, and as many as outputs there are not.
    """
    if not adapter.head or adapter.record.get("labels") or adapter.kind not in (None, "encoder"):
        return None
    if adapter.pooling == "mean":
        config = copy.deepcopy(config)
        set_mean(config)
    last = next((adapter.head[key] for key in sorted(label_weights(config)) if key in adapter.head), None)
    outputs = None if last is None else int(last.shape[0])
    if outputs == 1:
        raise AdapterError(
            f"{doing}: its head has one output, a number (regression), expected one output for each label. That is not "
            "built yet; use it in Python: ia3.peft.PeftModel.from_pretrained(model, folder)."
        )
    if outputs is not None and labels is not None and len(labels) != outputs:
        raise SettingsError(
            f"{doing}: its head has {outputs} outputs, got {len(labels)} labels ({', '.join(map(repr, labels[:6]))}"
            f"{', …' if len(labels) > 6 else ''}), expected a label for each. Give all, in the order of the outputs."
        )
    return outputs
