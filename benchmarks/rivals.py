"""The rivals: PEFT as its notebooks use it, PEFT tuned by hand as well as it goes, and a frozen model with no adapter.

`peft-tuned` has the vectors where ours are, so that both are the same function and must learn the same. PEFT is
imported when a method is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bases import SEED, Case
from benchmarks.methods import Recipe, Training, label_loss
from benchmarks.workload import Work
from ia3.adapters.config import TASK_TYPES
from ia3.adapters.targets import full_targets
from ia3.core.discovery import find_plan
from ia3.errors import PlanError

LORA_RATE = 5e-4


def _peft_notebook(case: Case, works: Sequence[Work]) -> Training:
    """The loop of PEFT's notebooks: default targets, texts padded to 128, every logit, the base's own dropout."""
    from peft import IA3Config

    model = wrap(case.model, IA3Config(task_type=TASK_TYPES[case.kind])).train()

    def compute(work: Work) -> Tensor:
        labels = work.padded.choices if case.kind == "encoder" else work.padded.labels
        loss: Tensor = model(**work.padded.inputs, labels=labels).loss
        return loss

    return Training(model, compute, _trained(model), schedule=len(works))


def _peft_tuned(case: Case, works: Sequence[Work]) -> Training:
    """PEFT's (IA)³ at the sites of our plan, everything else as in our loop."""
    from peft import IA3Config

    targets, feedforward = peft_targets(case.model)
    heads = list(case.head_modules) or None
    return _tuned(case, IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=heads))


def _peft_lora(case: Case, works: Sequence[Work]) -> Training:
    """LoRA of rank 16 on every linear but the head, everything else as in our loop."""
    from peft import LoraConfig

    heads = list(case.head_modules) or None
    config = LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", modules_to_save=heads,
        task_type=TASK_TYPES[case.kind],
    )  # fmt: skip
    return _tuned(case, config, LORA_RATE)


def _tuned(case: Case, config: Any, rate: float | None = None) -> Training:
    model = wrap(case.model, config).get_base_model().eval()  # without PEFT's wrapper around each call
    rates = {} if rate is None else {"rate": rate}
    return Training(model, lambda work: label_loss(model, case.kind, work), _trained(model), **rates)


def wrap(model: Any, config: Any) -> Any:
    """Return PEFT's model; LoRA's first factor is drawn from the seed."""
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # said of every model
        torch.manual_seed(SEED)
        return get_peft_model(model, config)


def _frozen_floor(case: Case, works: Sequence[Work]) -> Training:
    """The passes of a frozen model with nothing to learn: the gradient runs down to the first block's input."""
    model = case.model.requires_grad_(False)
    given = model.get_input_embeddings().weight
    for module in model.modules():  # T5 has the same embeddings in three modules
        if isinstance(module, nn.Embedding) and module.weight is given:
            module.register_forward_hook(_require_gradient)
    return Training(model, lambda work: label_loss(model, case.kind, work), ())


def _require_gradient(module: nn.Module, args: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _trained(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def peft_targets(model: Any) -> tuple[Any, Any]:
    """Return PEFT's target and feed-forward modules that are the sites of our plan."""
    sites = find_plan(model).sites
    fused = [site.name for site in sites if not site.is_whole]
    if fused:
        raise PlanError(
            f"Comparing with PEFT: {fused[0]!r} is a part of a fused projection, which PEFT scales whole, expected "
            "vectors over whole projections. Choose another base."
        )
    by_side = {side: [site.module for site in sites if site.side == side] for side in ("output", "input")}
    targets, feedforward = full_targets(by_side["output"], by_side["input"])
    return tuple(names if isinstance(names, str) else list(names) for names in (targets, feedforward))  # type: ignore[return-value]


RIVALS = {
    "peft-notebook": Recipe(_peft_notebook),
    "peft-tuned": Recipe(_peft_tuned),
    "peft-lora": Recipe(_peft_lora),
    "frozen-floor": Recipe(_frozen_floor),
}
