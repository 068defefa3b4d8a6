"""From an adapter's folder, or its place in a packed store, to a predictor: the base loaded, the adapter on it.

What the record says and what is given are brought together here; answering is `predictor`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import load, put_on
from ia3.adapters.config import other_task, refuse_task
from ia3.adapters.fitting import check_brought, check_sites
from ia3.adapters.folder import choose_stored, load_adapter
from ia3.adapters.places import find_folder, find_stored, name_of
from ia3.adapters.store import Store
from ia3.adapters.stored import attach_store
from ia3.bases.label_names import read_labels
from ia3.bases.loading import Base
from ia3.bases.locating import say_on_stderr
from ia3.bases.revisions import split_revision
from ia3.data.templates import Template, parse_template
from ia3.errors import AdapterError, SettingsError
from ia3.fast.acceleration import keep_accelerated
from ia3.inference.adapter_base import check_outputs, load_base_of
from ia3.inference.predictor import Predictor, as_recorded
from ia3.inference.recorded import Recorded, labels_for

T = TypeVar("T")


def load_predictor(
    adapter_folder: str | Path,
    *,
    revision: str | None = None,
    base: str | Path | Base | None = None,
    labels: Sequence[str] | None = None,
    template: Template | str | None = None,
    name: str | None = None,
    strength: float = 1.0,
    ensemble: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    precision: str = "float",
    say: Callable[[str], None] = say_on_stderr,
) -> Predictor:
    """Return a predictor from an adapter's folder: its base loaded, the adapter on it, its labels and template known.

    Args:
        adapter_folder: A folder of ours or of PEFT's, an id on the hub, or `STORE:NAME` for an adapter of a packed
            store; all of the store's adapters are then there by name, each read when it is asked for.
        revision: Of an adapter on the hub, where it is not spelled behind its id (`NAME@REVISION`).
        base: Another place for the base than the one the adapter names, or a loaded base.
        labels: The label set, for a folder that does not record one; for encoders in the order of the head's outputs.
        template: The template, for a folder that does not record one.
        name: Name of the adapter in the bank; by default the folder's. With a store alone, which of its adapters.
        strength: How much of the adapter is used: 0 is the base, 1 the adapter, −1 its negation.
        ensemble: Whether a closed set's answers are averaged over all templates that are recorded; by default the
            first is used alone.
        device: Where the base goes; not used with a loaded one.
        dtype: Of the base; not used with a loaded one.
        precision: `float`, or `int8` for the weights of the base's blocks; not used with a loaded one.
        say: Told, a line at a time, what takes long or was chosen.

    Returns:
        The predictor. Without labels, recorded or given, a language model's adapter answers with free text.

    Raises:
        AdapterError: If the folder holds no adapter of this base, or names no base.
        BaseError: If the base cannot be loaded.
        SettingsError: If labels or template are given and others are recorded, or an encoder's labels are not known.

    Example:
        >>> predictor = load_predictor("runs/news")  # doctest: +SKIP
        >>> predictor.classify(["Profit rose by 3 %."])[0].prediction  # doctest: +SKIP
        'positive'
    """
    doing = f"Loading adapter from {adapter_folder}"
    if revision is not None:
        name = name or name_of(adapter_folder)
        adapter_folder = find_folder(adapter_folder, revision=revision)
    adapter, name, store = _find_adapter(doing, adapter_folder, name)
    refuse_task(other_task(adapter.config), doing)
    known = Recorded.read(doing, adapter.record)
    chosen = _agreed(doing, "label set", _given_labels(doing, labels), known.labels)
    given = parse_template(template) if isinstance(template, str) else template
    words = _agreed(doing, "template", given, known.template)
    if isinstance(base, Base):
        check_outputs(doing, adapter, base.model.config, labels_for(doing, base, chosen))
    else:
        placed = {"dtype": dtype, "device": device, "precision": precision}
        folder = find_folder(adapter_folder) if store is None else None
        base = load_base_of(doing, adapter, base, chosen, folder=folder, say=say, **placed)
    if adapter.kind is not None and adapter.kind != base.kind:
        raise AdapterError(
            f"{doing}: it is for a base of kind {adapter.kind}, got {base.given!r}, which is {base.kind}."
        )
    if base.kind == "encoder" and adapter.pooling == base.pooling:  # else it is told below that they differ
        check_sites(adapter, base.model, doing)  # on another base every head is missing
        check_brought(base.model, adapter.head_modules, doing, base.head_modules)
    chosen = labels_for(doing, base, chosen)
    if ensemble:
        _check_ensemble(doing, chosen, known)
    keep_accelerated(load(base.model, adapter_folder, name) if store is None else attach_store(base.model, store))
    answers = replace(known, labels=chosen, template=words)
    more: dict[str, Any] = {"is_ensemble": ensemble, "strength": strength, "say": say}
    return as_recorded(base, name, adapter.record, answers, **more)


def predictor_of(adapter: Adapter, base: Base, name: str) -> Predictor:
    """Return a predictor of an adapter in memory, as its record says that it answers; its base's hash is not compared.

    Args:
        adapter: Its record has labels.
        base: A base that it fits; without a bank, or with one in which it is one more.
        name: Of the adapter in the bank.

    Raises:
        AdapterError: If it does not fit, or its record cannot be used.
        BankError: If the bank has an adapter of this name.
    """
    known = Recorded.read(f"Putting adapter {name!r} on the model", adapter.record)
    keep_accelerated(put_on(base.model, adapter, name))
    return as_recorded(base, name, adapter.record, known)


def _find_adapter(doing: str, address: str | Path, name: str | None) -> tuple[Adapter, str, Store | None]:
    """Return an adapter, its name in the bank, and the store that it lies in, if it does."""
    stored = find_stored(address)
    if stored is None:
        return load_adapter(address), name or Path(split_revision(str(address))[0]).absolute().name, None
    if name and stored[1] and name != stored[1]:
        raise SettingsError(f"{doing}: an adapter of a store keeps its name, got name={name!r}. Leave it out.")
    store = Store.open(stored[0])
    chosen = choose_stored(store, stored[1] or name)
    return store.adapter(chosen), chosen, store


def _given_labels(doing: str, labels: Any) -> tuple[str, ...] | None:
    names = () if labels is None else read_labels(doing, labels)
    if len(names) == 1:
        raise SettingsError(f"{doing}: got one label, {names[0]!r}, expected at least two, of which one is the answer.")
    return names or None


def _agreed(doing: str, what: str, given: T | None, recorded: T | None) -> T | None:
    """Return what is recorded, or else given; another one than what is recorded is refused."""
    if given is not None and recorded is not None and given != recorded:
        raise SettingsError(
            f"{doing}: its record has another {what} than the one given, {recorded!r}. The adapter was trained with "
            "that; leave yours out."
        )
    return given if recorded is None else recorded


def _check_ensemble(doing: str, labels: tuple[str, ...] | None, known: Recorded) -> None:
    """Raise if there is nothing to average over."""
    is_free = not labels and known.choices_column is None
    if not known.others or is_free:
        what = "it answers with free text" if is_free else "its record has one template"
        raise SettingsError(
            f"{doing}: an ensemble averages the labels' probabilities over several templates, and {what}. Leave "
            "--ensemble out."
        )
