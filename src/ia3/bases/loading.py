"""Loading a base: from a name, folder, GGUF file or hub id to a frozen model, its tokenizer and what its head is.

The model comes frozen, in eval mode, and whole: a weight that is missing outside the head is an error. It knows nothing
of adapters or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ia3.bases.cache import Say
from ia3.bases.folders import check_weights, load_tokenizer, read_config, stored_dtype
from ia3.bases.heads import draw_heads, find_heads, is_head_weight, label_weights
from ia3.bases.kinds import auto_class, check_direction, check_kind, empty_model, is_classifier, kind_of, other_problem
from ia3.bases.label_names import read_labels
from ia3.bases.limits import Limits, count_vocabulary, embeddings_of, limits_of
from ia3.bases.locating import Place, locate, say_on_stderr
from ia3.bases.pooling import pooling_in, pooling_of, set_mean
from ia3.bases.precision import check_precision, to_int8
from ia3.bases.quiet import quiet
from ia3.bases.revisions import at_revision
from ia3.bases.trial import check_runs
from ia3.errors import BaseError, SettingsError, near_matches
from ia3.names import POOLINGS, STORED, Kind, Pooling, Precision
from ia3.spelling import one_line

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_base(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    precision: str = "float",
    pooling: str = "own",
    seed: int = 0,
    say: Say = say_on_stderr,
) -> Base:
    """Return a frozen base, ready to be adapted.

    Args:
        name_or_path: A local folder, a GGUF file, a named base (`minilm`, `gemma-3-270m`) or a hub id, with its
            revision behind it if need be: `NAME@REVISION`.
        revision: Of a hub id: a branch, a tag, a pull request or a commit; left out, what the name says, else main.
        kind: What it is used as; by default what its config says (`kind_of`).
        labels: For an encoder, the labels in the order of the head's outputs. A classifier in the checkpoint is kept
            if it was saved with these labels, else drawn anew: it is then to be trained, or brought by an adapter.
        num_labels: For an encoder without `labels`, the width of the head; a classifier of this width is kept. By
            default that of a saved classifier, else 2.
        dtype: auto, stored, float32, bfloat16, float16 or float64. auto is float32, and bfloat16 on a GPU that computes
            in it. stored is what most weights have in their files, where they then stay until they are read: on the
            CPU such a base takes hardly any memory. It has the fingerprint that it has in float32.
        device: auto, or what torch takes (cpu, cuda, cuda:1, mps). auto is cuda, then mps, then cpu.
        precision: float keeps the weights in `dtype`; int8 rounds those of the blocks to int8 (`ia3.bases.precision`),
            and `dtype` is that of the rest; int8-gradients takes the products of a backward pass in int8 as well.
        pooling: What an encoder's head reads: `own` is the place that its class has for it (a folder that was saved
            with a head on the mean keeps it), `mean` the mean of all positions (`ia3.bases.pooling`), `auto` the mean
            where its files say that it was trained for it.
        seed: Of a new head's first weights.
        say: Told, a line at a time, what takes long or was chosen.

    Returns:
        The base, in eval mode, no parameter requiring a gradient.

    Raises:
        BaseError: If it cannot be found or read, weights other than the head's are missing, or its own classifier
            would be kept and answers several labels at once, or numbers.
        SettingsError: If kind, dtype, device, precision, pooling or the labels are impossible.

    Example:
        >>> base = load_base("minilm", labels=["negative", "neutral", "positive"])  # doctest: +SKIP
        >>> base.kind, base.head_modules  # doctest: +SKIP
        ('encoder', ('classifier',))
    """
    if kind is not None:
        check_kind(kind, str(name_or_path))  # before a conversion takes most of a minute
    where = _resolve_device(device)
    number_type = _resolve_dtype("float32" if dtype == STORED else dtype, where, say)
    held = check_precision(precision, number_type, str(name_or_path))
    place = locate(name_or_path, say, revision=revision)
    config = read_config(place.folder, place.address)
    check_weights(place.folder, place.address)
    if dtype == STORED and getattr(config, "quantization_config", None) is None:
        number_type = stored_dtype(place.folder, place.address)
        check_precision(precision, number_type, place.address)
    kind = kind or kind_of(config)
    _choose_pooling(config, pooling, kind, place)
    auto = auto_class(config, kind, place.address)
    is_as_saved = kind != "encoder" or _set_labels(config, labels, num_labels, place.address)
    tokenizer = load_tokenizer(place.folder, place.address)
    model, fresh = _read_model(auto, place, config, number_type, kind)
    check_direction(model.config, kind, place.address)
    _check_start(model.config, kind, place)
    if not is_as_saved:
        fresh |= label_weights(config)
    _refuse_holes(model, fresh, kind, place)
    heads = find_heads(model, fresh) if kind == "encoder" else ()
    draw_heads(model, heads, seed)
    _settle(model, tokenizer, place)
    if held != "float":
        saved = to_int8(model, leave_out=heads, rounds_gradients=held == "int8-gradients")
        say(f"base in int8: {saved.count} projections, {saved.bytes_saved / 1e6:,.0f} MB less")
    if getattr(model, "quantization_method", None) is None:  # a quantised model is already where it must be
        model.to(where)
    if dtype != STORED:  # its weights stay in their file until somebody reads them
        check_runs(model, tokenizer, kind, place.address)
    given = place.address if place.is_on_hub else str(name_or_path)
    return Base(model, tokenizer, kind, place.name, given, str(place.folder), heads, held, place.revision)


def with_tokenizer(base: Base, folder: Path) -> Base:
    """Return a base with the tokenizer of another folder, as that of an adapter with tokens of its own.

    Raises:
        BaseError: If it cannot be read, or has no token to pad with.
    """
    tokenizer = load_tokenizer(folder, str(folder))
    _give_pad_token(base.model, tokenizer, Place(folder, str(folder)))
    return replace(base, tokenizer=tokenizer)


def load_config(name_or_path: str | Path, say: Say = say_on_stderr) -> Any:
    """Return a base's transformers config without its weights; a GGUF file is converted first, once.

    Raises:
        BaseError: If the base cannot be found or its config not be read.
    """
    place = locate(name_or_path, say, with_weights=False)
    return read_config(place.folder, place.address)


def _choose_pooling(config: Any, pooling: str, kind: Kind, place: Place) -> None:
    """Write into the config what a head shall read."""
    doing = f"Loading base {place.address!r}"
    if pooling not in POOLINGS:
        raise SettingsError(f"{doing}: pooling {pooling!r} is unknown.{near_matches(pooling, POOLINGS)}")
    if pooling == "mean" and kind != "encoder":
        raise SettingsError(f"{doing}: pooling 'mean' is for the head of an encoder, and this is {kind}. Leave it out.")
    if pooling == "mean" or (pooling == "auto" and kind == "encoder" and pooling_in(Path(place.folder)) == "mean"):
        set_mean(config)


def _set_labels(config: Any, labels: Sequence[str] | None, num_labels: int | None, name: str) -> bool:
    """Write the labels into an encoder's config; return whether its classifier was saved with them.

    What classifies tokens is no classifier of texts, though its head may have the same name and shape.
    """
    labels = None if labels is None else read_labels("Loading an encoder", labels)
    saved = dict(config.id2label or {})
    count = _count_labels(labels, num_labels, usual=len(saved) if is_classifier(config) else 2)
    is_same = labels is None or [str(saved.get(i)) for i in range(len(saved))] == list(labels)
    is_same = is_same and (is_classifier(config) or not config.architectures)
    problem = other_problem(config) if is_same and len(saved) == count else None
    if problem is not None:
        raise BaseError(
            f"Loading base {name!r}: its classifier answers {problem}, expected one label of each text. That is not "
            "built yet; give labels of other names to train a new head on its body."
        )
    if count < 2:
        given = "" if labels is None else "".join(f" {label!r}" for label in labels)
        raise SettingsError(
            f"Loading an encoder: got {count} label{'s' * (count != 1)}{given}, expected at least 2. One output would "
            "be regression, which is not built yet."
        )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    elif len(saved) != count:
        config.num_labels = count
    config.problem_type = "single_label_classification"  # a regression head's config would say otherwise
    return is_same


def _count_labels(labels: Sequence[str] | None, count: int | None, *, usual: int) -> int:
    if count is not None and not hasattr(count, "__index__"):
        raise SettingsError(f"Loading an encoder: num_labels is {count!r}, expected a whole number.")
    if labels is None:
        return usual if count is None else count
    if count not in (None, len(labels)):
        raise SettingsError(f"Loading an encoder: num_labels is {count}, but {len(labels)} labels are given.")
    return len(labels)


def _read_model(auto: Any, place: Place, config: Any, dtype: torch.dtype, kind: Kind) -> tuple[Any, set[str]]:
    """Return the model on the CPU, and the parameters that its checkpoint does not have in their shape."""
    try:
        # from_pretrained draws missing weights; ours are drawn later, so its draws must not move the global state.
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = auto.from_pretrained(
                place.folder,
                config=config,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # told below, by name and kind
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:  # torch, safetensors and transformers each have their own
        empty_model(config, kind)  # raises itself where the config is at fault
        raise BaseError(
            f"Loading base {place.address!r}: transformers cannot load the weights in {place.folder}: "
            f"{one_line(error, 300)}."
        ) from error
    return model, set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def _refuse_holes(model: Any, fresh: set[str], kind: Kind, place: Place) -> None:
    """Raise if a weight is missing that no head may lack; a language model may lack none."""
    holes = sorted(key for key in fresh if kind != "encoder" or not is_head_weight(key, model.base_model_prefix))
    if holes:
        total = len(model.state_dict())
        shown = ", ".join(repr(key) for key in holes[:3])
        raise BaseError(
            f"Loading base {place.address!r} as {kind}: {len(holes)} of {total} weights are missing from "
            f"{place.folder} or have another shape there, first {shown}; expected every weight"
            f"{' outside the head' if kind == 'encoder' else ''}. The checkpoint is damaged, or of another model or "
            f"kind."
        )


def _check_start(config: Any, kind: Kind, place: Place) -> None:
    """Raise if a classifier on an encoder-decoder cannot begin its decoder."""
    needs_one = kind == "encoder" and getattr(config, "is_encoder_decoder", False)
    if needs_one and getattr(config, "decoder_start_token_id", None) is None:
        raise BaseError(
            f"Loading base {place.address!r} as encoder: its config names no decoder_start_token_id, and its decoder "
            f"reads the text behind that token. Set it in {place.folder}/config.json, as T5's 0."
        )


def _settle(model: Any, tokenizer: Any, place: Place) -> None:
    """Freeze the model and mend what its config says wrongly about it."""
    model.eval().requires_grad_(False)
    place.name_model(model)
    output, given = model.get_output_embeddings(), embeddings_of(model)
    if output is not None and given is not None and output.weight is not given:
        # transformers 5.23 forces the tie in the configs of T5, mT5, UMT5 and LongT5 and keeps a checkpoint's own head
        # beside it. UMT5 then scales its logits as if tied (by width^-0.5), and any later tie_weights() would drop
        # the head: the config must say what is.
        model.config.tie_word_embeddings = False
    _give_pad_token(model, tokenizer, place)


def _give_pad_token(model: Any, tokenizer: Any, place: Place) -> None:
    """Make sure that tokenizer and config have a pad token.

    Without one (GPT-2, Llama) the end token stands in: padded places are masked out of attention and loss, so its only
    duty is to have a row in the embeddings, which a token added for padding may not have.
    """
    rows = count_vocabulary(model) or len(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        stand_in = tokenizer.eos_token or tokenizer.unk_token
        if stand_in is None:
            raise BaseError(
                f"Loading base {place.address!r}: its tokenizer has no pad, end or unknown token, expected one to pad "
                f"batches with. Set tokenizer.pad_token and save it again in {place.folder}."
            )
        tokenizer.pad_token = stand_in
    # Batches are padded by the tokenizer; a sequence classifier finds the last real token by the config's id.
    config = model.config.get_text_config()
    pad = getattr(config, "pad_token_id", None)  # a few configs have no such setting at all
    if pad is None or pad >= rows or not model.config.is_encoder_decoder:
        config.pad_token_id = tokenizer.pad_token_id
        if model.can_generate():
            model.generation_config.pad_token_id = tokenizer.pad_token_id


def _resolve_device(device: str | torch.device) -> torch.device:
    """Return the device, checked to be there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"Choosing the device: torch {torch.__version__} here cannot use {str(device)!r}, expected auto, cpu, cuda "
            f"or mps: {one_line(error, 120)}."
        ) from error
    return where


def _resolve_dtype(dtype: str | torch.dtype, device: torch.device, say: Say) -> torch.dtype:
    """Return the number type of the weights."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            say("base in bfloat16 (dtype auto, and this GPU computes in it); vectors stay float32")
            return torch.bfloat16
        return torch.float32
    if dtype not in _DTYPES:
        raise SettingsError(
            f"Choosing the dtype: {dtype!r} is unknown.{near_matches(dtype, ['auto', STORED, *_DTYPES])}"
        )
    return _DTYPES[dtype]


@dataclass(frozen=True)
class Base:
    """A frozen transformer with its tokenizer.

    Attributes:
        model: A transformers model in eval mode, no parameter requiring a gradient.
        tokenizer: Always with a pad token.
        kind: seq2seq, causal or encoder.
        name: The hub id, for named bases too, else the path.
        given: What it was loaded by, and can be loaded by again; a hub id with its revision.
        folder: Where its files lie.
        head_modules: Paths of the modules that the checkpoint does not have.
        precision: Whether the weights of its blocks are as they were saved, or in int8; see `load_base`.
        revision: Of the hub id; None is main, or a base that is not of the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    name: str
    given: str
    folder: str
    head_modules: tuple[str, ...]
    precision: Precision = "float"
    revision: str | None = None

    @property
    def address(self) -> str:
        """The name with the revision, as people and `load_base` take it."""
        return at_revision(self.name, self.revision)

    @property
    def pooling(self) -> Pooling:
        """What an encoder's head reads: its class's own place, or the mean of all positions."""
        return pooling_of(self.model.config)

    @property
    def limits(self) -> Limits:
        """How many tokens it has room for, and how many different ones."""
        return replace(self._limits, vocabulary=count_vocabulary(self.model))  # embeddings can be resized

    @cached_property
    def _limits(self) -> Limits:
        return limits_of(self.model)

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.tokenizer.pad_token_id)

    @property
    def decoder_start_id(self) -> int | None:
        """First token of a decoder's answer; None for bases without one."""
        for config in (self.model.config, getattr(self.model, "generation_config", None)):
            start = getattr(config, "decoder_start_token_id", None)
            if start is not None:
                return int(start)
        return None
