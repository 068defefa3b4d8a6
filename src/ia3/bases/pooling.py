"""Classifiers that read the mean of all positions, for encoders that were trained to put a sentence there.

transformers' classifiers read the first position, or a pooler behind it. A sentence encoder (sentence-transformers,
Reimers and Gurevych 2019) was trained for the mean of its last hidden states, and says so in its folder; a head on
another place starts from something nobody trained. This file knows configs, modules and the folder's own word.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ia3.core.surroundings import surroundings
from ia3.errors import BaseError
from ia3.names import MODEL_FILE, Pooling

_KEY = "sentence_pooling"  # in the config: it goes with every copy and into every folder of the model


def pooling_of(config: Any) -> Pooling:
    """Return what the head of a classifier of this config reads: its class's own place, or the mean."""
    return "mean" if getattr(config, _KEY, None) == "mean" else "own"


def set_mean(config: Any) -> None:
    """Write into a config that the head reads the mean."""
    setattr(config, _KEY, "mean")


def pooling_in(folder: Path) -> Pooling:
    """Return what a folder's encoder was trained for: `mean` where sentence-transformers' own files say so.

    Args:
        folder: A saved model; `modules.json` names the folder of the pooling, if there is one.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        path = next(one["path"] for one in modules if str(one["type"]).rpartition(".")[2] == "Pooling")
        modes = json.loads((folder / path / MODEL_FILE).read_text(encoding="utf-8"))
        named = modes.get("pooling_mode", [name for name, is_on in modes.items() if _is_mode(name) and is_on])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return "own"
    return "mean" if named in ("mean", ["pooling_mode_mean_tokens"]) else "own"


def _is_mode(name: str) -> bool:
    return name.startswith("pooling_mode_")


@cache
def mean_classifier_class(config_class: type) -> Any:
    """Return the class of a body of this kind with a linear classifier on the mean of its last hidden states.

    Args:
        config_class: Class of the body's config.

    Raises:
        BaseError: If the body has a decoder, or transformers has several bodies for the config.
    """
    body = MODEL_MAPPING.get(config_class, None)
    if not isinstance(body, type) or getattr(config_class(), "is_encoder_decoder", False):
        raise BaseError(
            f"Loading a classifier on the mean: {config_class.__name__} is of no plain encoder. Leave the pooling out."
        )
    family: Any = next(one for one in body.__mro__[1:] if issubclass(one, PreTrainedModel))
    name = body.__name__.removesuffix("Model") + "MeanForSequenceClassification"
    return type(name, (_MeanClassifier, family), {"body_class": body, "__module__": __name__})


class _MeanClassifier:
    """What every such class adds to its family: the classifier, and the forward pass.

    Attributes:
        reads_every_position: Says that no pass may leave positions out.
    """

    body_class: Any
    reads_every_position = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.num_labels = config.num_labels
        has_pooler = "add_pooling_layer" in inspect.signature(self.body_class.__init__).parameters
        body = self.body_class(config, **({"add_pooling_layer": False} if has_pooler else {}))  # nothing would read it
        setattr(self, self.base_model_prefix, body)  # type: ignore[attr-defined]
        # no class of transformers has this name, so that none takes the numbers for a head on one position
        self.mean_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Return a model with new weights, as transformers' auto classes do."""
        return cls._from_config(config)  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits, shape (batch, labels), and with `labels` of shape (batch,) the mean cross-entropy.

        Args:
            input_ids: int64, shape (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, shape (batch, seq); all tokens by default.
            token_type_ids: int64, shape (batch, seq), for bodies that have them.
            position_ids: The same.
            labels: int64, shape (batch,).
            inputs: What else the body takes, such as `inputs_embeds`.
        """
        inputs.pop("return_dict", None)
        places = {"token_type_ids": token_type_ids, "position_ids": position_ids}
        inputs |= {name: value for name, value in places.items() if value is not None}
        body: Any = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        hidden = body(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        sentence = mean_sentence(hidden, attention_mask)
        if (captured := surroundings().captured) is not None:
            captured.append(sentence)
        logits = self.mean_classifier(sentence)
        loss = None if labels is None else nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def mean_sentence(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the tokens' hidden states, shape (batch, width), each of length √width.

    As sentence-transformers has it, but for the length: numbers of about one are what heads are drawn for.

    Args:
        hidden: Shape (batch, seq, width).
        mask: 1 for tokens and 0 for padding, shape (batch, seq); None for tokens alone.
    """
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # a sum in half precision could overflow
    if mask is None:
        mean = wide.mean(dim=1)
    else:
        weights = mask.unsqueeze(-1).to(wide.dtype)
        mean = (wide * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return (nn.functional.normalize(mean, dim=-1) * hidden.shape[-1] ** 0.5).to(hidden.dtype)
