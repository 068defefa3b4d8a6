"""The names of the PEFT library for (IA)³: a program written for PEFT runs with `from ia3.peft import …`.

Arguments mean what they mean in PEFT 0.21, with these differences, all of them on purpose:

- Targets left out mean this package's plan (`ia3.find_plan`): keys, values and feed-forward activations, of fused
  projections their slices. PEFT scales queries of several families, and the query part of fused projections.
- A name of `target_modules`, `feedforward_modules`, `exclude_modules` or `modules_to_save` that matches nothing is an
  error. So is an unknown name in `adapter_names`, which works in forward and generate as PEFT promises it for LoRA.
- `get_peft_model` returns the transformers model itself with PEFT's methods on it, not a wrapper around it: Trainer,
  pipelines and `generate` see a transformers model. So `model.base_model` is what transformers calls that, the names
  of parameters have no `base_model.model.` in front, and the vectors lie under `ia3_bank`. `model.get_base_model()` is
  the transformers model, as in PEFT.
- `merge_and_unload` returns a new plain model; the model it is called on goes on as before.
- Adapters on one model share one plan.

PEFT itself is not needed and never imported. Folders are read and written in its format.
"""

from __future__ import annotations

from ia3.peft.auto import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSeq2SeqLM,
    AutoPeftModelForSequenceClassification,
)
from ia3.peft.config import IA3Config, PeftConfig, TaskType
from ia3.peft.model import PeftModel, get_peft_model

__all__ = [
    "AutoPeftModelForCausalLM",
    "AutoPeftModelForSeq2SeqLM",
    "AutoPeftModelForSequenceClassification",
    "IA3Config",
    "PeftConfig",
    "PeftModel",
    "TaskType",
    "get_peft_model",
]
