"""Names that files have and commands take, each written once.

It imports nothing of this package and no torch, so that the command line knows them at once.
"""

from __future__ import annotations

from typing import Literal, get_args

# An adapter's folder; without its config it is none.
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
RECORD_FILE = "ia3.json"
CARD_FILE = "README.md"

MODEL_FILE = "config.json"  # of a model, in its folder

BASE_NAME = "__base__"  # of row 0 of a bank: the base alone
ROLES = ("key", "value", "feedforward")  # the paper's

Kind = Literal["causal", "seq2seq", "encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)

STORED = "stored"  # in place of a number type: as it lies in the file
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

Precision = Literal["float", "int8", "int8-gradients"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Pooling = Literal["own", "mean"]
POOLINGS = (*get_args(Pooling), "auto")

Ranking = Literal["sum", "mean"]  # of choices: by their log-probability, or by that of a token
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)

Answers = Literal["auto", "labels", "text"]
ANSWERS: tuple[Answers, ...] = get_args(Answers)

SAMPLINGS = ("equal", "proportional", "temperature")
BATCHES = ("mixed", "apart")
