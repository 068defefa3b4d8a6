"""The three kinds of base: which one a config is of, and the transformers class that holds it.

    seq2seq   reads a prompt with its encoder and writes the answer with its decoder (T5, BART)
    causal    continues the prompt (GPT-2, Llama, Gemma)
    encoder   a body with a classifying head on it (BERT, DeBERTa)

It knows configs and empty models, nothing of files or weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from ia3.bases.faults import unbuildable
from ia3.bases.pooling import mean_classifier_class, pooling_of
from ia3.bases.quiet import quiet
from ia3.core.families import family_of
from ia3.errors import BaseError, SettingsError, near_matches
from ia3.names import KINDS, Kind

_CLASSES: dict[str, tuple[Any, Any]] = {  # kind: the auto class, and the config classes it takes
    "seq2seq": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING),
    "causal": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "encoder": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
}


def kind_of(config: Any) -> Kind:
    """Return the kind of the base that a transformers config describes.

    A saved classifier is an encoder, whatever its body. Else an encoder-decoder is seq2seq. Causal is what transformers
    knows as a causal language model and not as a masked one too (BERT and RoBERTa are in both lists), what calls
    itself a decoder, or what was saved as `…ForCausalLM`. The rest are encoders.

    Raises:
        BaseError: If the body is a language model's and was saved with a head for another task, such as
            `…ForQuestionAnswering`: with tied embeddings it would load as a language model that nobody trained.
    """
    if is_classifier(config):
        return "encoder"
    kind = _kind_of_body(config)
    other = next((name for name in _architectures(config) if name.endswith(_OTHER_HEADS)), None)
    if kind != "encoder" and other is not None:
        raise BaseError(
            f"Choosing the kind of base {config.name_or_path!r}: it was saved as {other}, expected a language model or "
            f"a classifier of whole texts. To use its body as a language model, say so: kind={kind!r} "
            f"(ia3.load_base, ia3 plan --kind)."
        )
    return kind


# Heads that answer something else than one label of a text, or words.
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction")


def is_classifier(config: Any) -> bool:
    """Return whether a config was saved with a classifier of whole texts."""
    return any("ForSequenceClassification" in name for name in _architectures(config))


def other_problem(config: Any) -> str | None:
    """Return what a saved classifier answers in place of one label of a text, in words; None if it is one label."""
    if not is_classifier(config):
        return None
    if config.problem_type == "multi_label_classification":
        return "several labels of one text at once (problem_type 'multi_label_classification')"
    if config.problem_type == "regression" or config.num_labels == 1:
        return "a number (regression)"
    return None


def _architectures(config: Any) -> tuple[str, ...]:
    """Return the names of the classes that a config was saved with."""
    return tuple(getattr(config, "architectures", None) or ())


def _kind_of_body(config: Any) -> Kind:
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    is_only_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    is_saved_so = any("ForCausalLM" in name for name in _architectures(config))
    return "causal" if is_only_causal or getattr(config, "is_decoder", False) or is_saved_so else "encoder"


def check_kind(kind: str, name: str) -> None:
    """Raise a SettingsError if there is no such kind; `name` is the base, for the error."""
    if kind not in KINDS:
        raise SettingsError(f"Loading base {name!r}: kind {kind!r} is unknown.{near_matches(kind, KINDS)}")


def auto_class(config: Any, kind: str, name: str) -> Any:
    """Return the class that holds a base of this config as this kind: transformers' auto class, or one with a mean.

    Args:
        config: The base's config.
        kind: What it shall be used as.
        name: The base, for the error.

    Raises:
        SettingsError: If there is no such kind.
        BaseError: If transformers has no model of this kind for the config, or only one that also takes images or
            sound, or whose answers hang on padding.
    """
    check_kind(kind, name)
    auto, known = _CLASSES[kind]
    if type(config) not in known:
        possible = [other for other, (_, configs) in _CLASSES.items() if type(config) in configs]
        cure = f"It can be {' or '.join(possible)}." if possible else "Use a text model."
        raise BaseError(
            f"Loading base {name!r} as {kind}: transformers has no {kind} model of type {config.model_type!r}. {cure}"
        )
    takes_more = [key.removesuffix("_config") for key in config.sub_configs if key in ("vision_config", "audio_config")]
    # transformers gives the text part alone where the class is made for it (Qwen3-VL), else the whole (Gemma 3).
    if takes_more and known[type(config)].config_class is type(config):
        held = " and ".join(f"{'an' if part[0] in 'aeiou' else 'a'} {part}" for part in takes_more)
        raise BaseError(
            f"Loading base {name!r}: its type {config.model_type!r} holds {held} model beside "
            f"the text model, expected text alone. Use a text-only model of the family, or save the text part alone."
        )
    if kind == "encoder" and family_of(config.model_type).hangs_on_padding and config.is_encoder_decoder:
        raise BaseError(
            f"Loading base {name!r} as encoder: transformers' classifier of {config.model_type!r} reads one place "
            "further wherever a batch pads a text, so that an answer would hang on the texts beside it. Use it as "
            "seq2seq: load_base(…, kind='seq2seq')."
        )
    if kind == "encoder" and pooling_of(config) == "mean":
        config_class: type = type(config)
        return mean_classifier_class(config_class)
    return auto


def empty_model(config: Any, kind: Kind, *, num_labels: int = 2, untied_head: bool = False) -> Any:
    """Return the model of a config on the meta device: every module and shape, no weights.

    Args:
        config: A transformers config; it is not changed.
        kind: What the base is used as.
        num_labels: Width of an encoder's head.
        untied_head: Give a language model an output matrix of its own even if the config ties it to the embeddings.
            transformers 5.23 forces the tie for T5, mT5, UMT5 and LongT5 from a config alone, and undoes it when the
            checkpoint holds another matrix, as those of mT5, mT0 and T5 v1.1 do.

    Raises:
        BaseError: If transformers has no such model, cannot build it from this config, or builds one that sees behind
            the place it reads at.

    Example:
        >>> from transformers import MT5Config
        >>> large = MT5Config(d_model=1024, d_ff=2816, num_layers=24, num_heads=16)
        >>> count_parameters(empty_model(large, "seq2seq"))
        973466624
        >>> count_parameters(empty_model(large, "seq2seq", untied_head=True))
        1229581312
    """
    config = copy.deepcopy(config)
    if kind == "encoder":
        config.num_labels = num_labels
    name = getattr(config, "name_or_path", "") or config.model_type
    auto = auto_class(config, kind, name)
    if kind == "seq2seq":
        check_direction(config, kind, name)
    with quiet(), torch.device("meta"):
        try:
            model = auto.from_config(config)
        except Exception as error:  # whatever the arithmetic of a model's code ends in
            raise unbuildable(config, kind, name, error) from error
        output = model.get_output_embeddings() if untied_head else None
        if output is not None:
            output.weight = nn.Parameter(torch.empty_like(output.weight))
    check_direction(model.config, kind, name)
    return model.eval().requires_grad_(False)


def check_direction(config: Any, kind: str, name: str) -> None:
    """Raise if a language model would see the tokens behind the place it reads at, the answer among them.

    BERT and its relatives read in both directions unless their config calls them decoders; transformers builds them as
    language models all the same.

    Args:
        config: Of the built model: some classes for language modelling set it themselves. An encoder-decoder's may be
            looked at before.
        kind: What the base is used as.
        name: The base, for the error.

    Raises:
        BaseError: Naming the setting.
    """
    decoder: Any = config if kind == "causal" else getattr(config, "decoder", None) if kind == "seq2seq" else None
    for setting in ("is_decoder", "causal"):  # XLM's is `causal`
        if getattr(decoder, setting, None) is False and not family_of(decoder.model_type).always_decodes:
            cure = (
                "in config.json, or use it as an encoder: load_base(…, kind='encoder')"
                if decoder is config
                else "in the decoder's part of config.json"
            )
            raise BaseError(
                f"Loading base {name!r} as {kind}: its config has {setting} false, so this {decoder.model_type!r} "
                "model would read in both directions and see the answer it is to give. "
                f"Set {setting!r} to true {cure}."
            )


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model's parameters are; a tied one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
