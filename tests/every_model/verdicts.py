"""What becomes of one model type: planned and right, refused with a reason, or not to be built; all else is a fault.

*Right* is: the plan's sites scaled by random numbers equal weights scaled by hand, a mixed batch equals each example
alone, every site gets a gradient, a language model sees nothing behind a token, and two training steps, saving,
loading, classifying and generating through the library's entry points give what the merged model gives in plain passes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import ia3
from ia3.bases.kinds import empty_model
from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.sites import Plan
from ia3.errors import BaseError, IA3Error, PlanError
from ia3.names import Kind
from tests.every_model.tiny_configs import Pair, tiny_config
from tests.models import tiny_tokenizer

Outcome = Literal["right", "refused", "not built"]
LABELS = ["good", "bad news"]
TEXTS = ["profit rose 1", "sales fell two up up"]
_MOST = 5_000_000  # parameters that a model may have to be built with weights
_LENGTH = 300  # of a reason on the page
_ADVICE = re.compile(r"alone can carry vectors: target_modules=(\[[^\]]*\]|'[^']*')")


class Fault(AssertionError):
    """A model that is neither right nor refused."""


def judge(pair: Pair, folder: Path) -> Verdict:
    """Return what becomes of a model type; see `_judge`.

    Raises:
        Fault: Whatever else than a verdict it ends in.
    """
    try:
        return _judge(pair, folder)
    except (Fault, TimeoutError):
        raise
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _judge(pair: Pair, folder: Path) -> Verdict:
    """Return what becomes of a model type.

    Args:
        pair: The type, and what it is used as.
        folder: An empty one, for the base and the run.

    Raises:
        Fault: If it is planned and not right, or refused with advice that does not hold.
    """
    config = tiny_config(pair)
    try:
        empty = empty_model(config, pair.kind)
        find_plan(empty)
    except BaseError as error:
        outcome: Outcome = "not built" if "cannot build" in str(error) else "refused"
        return Verdict(pair, outcome, _short(str(error)))
    except PlanError as error:
        advised = _ADVICE.search(str(error))
        is_tiny = sum(parameter.numel() for parameter in empty.parameters()) < _MOST
        if advised and is_tiny:
            _check_advice(pair, config, ast.literal_eval(advised.group(1)))
        return Verdict(pair, "refused", _short(str(error)))
    model = _random_model(config, pair.kind)
    model.save_pretrained(folder / "base")
    if type(config) is not type(model.config):  # the text of a composite, whose checkpoints have its whole config
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder / "base")
    tiny_tokenizer(pair.kind).save_pretrained(folder / "base")
    try:
        plan = _check_passes(folder / "base", pair.kind)
        _check_run(folder, pair.kind)
    except IA3Error as error:  # before or while training, by name
        return Verdict(pair, "refused", _short(str(error)))
    return Verdict(pair, "right", f"{len(plan.sites)} sites, found by its {plan.source}")


def _short(message: str) -> str:
    """Return the part of a message that says why, the same for every folder."""
    why = re.sub(r"^(Loading base|Finding the plan of|Reading with) .*?: ", "", " ".join(message.split()))
    why = re.sub(r"'/[^']*'", "it", why.split(" Candidates:")[0])
    why = why.removeprefix("this model type is not in the table and its structure does not tell: ")
    return re.sub(r"(?<=[a-z_*])\.\d+(?=\.|')", ".*", why[:_LENGTH].rstrip(" ;,."))


def _random_model(config: Any, kind: Kind) -> Any:
    """Return a model of a config with weights that are large enough to matter, the same at every call."""
    from ia3.bases.kinds import auto_class

    if kind == "encoder":
        config.num_labels = len(LABELS)
    torch.manual_seed(0)
    model = auto_class(config, kind, config.model_type).from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def _check_advice(pair: Pair, config: Any, names: list[str] | str) -> None:
    """Raise unless the targets that a refusal names are taken, run, and learn."""
    model = _random_model(config, pair.kind)
    bank = Bank(find_plan(model, target_modules=names))
    attach_bank(model, bank)
    bank.add("news", _random_row(bank.plan, 0), trainable=True)
    logits = model(**_inputs(model, pair.kind), rows="news").logits
    _weighted(logits).backward()
    if dead := _dead_sites(bank):
        raise Fault(f"the refusal advises {names}, and {dead[0]!r} never learns")


def _inputs(model: Any, kind: Kind) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 200, (3, 9), generator=generator)
    ids[:, -1] = 1  # the classifiers of encoder-decoders read at the end token
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.randint(4, 200, (3, 5), generator=generator)
    if kind != "encoder":
        inputs["use_cache"] = False
    return inputs


def _check_passes(folder: Path, kind: Kind) -> Plan:
    """Raise a Fault unless the passes of a model with a bank are those of weights scaled by hand; return the plan."""
    model = ia3.load_base(folder, kind=kind, labels=LABELS if kind == "encoder" else None, say=_hush).model
    inputs = _inputs(model, kind)
    if kind == "causal":
        _check_causal(model, inputs)
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank)
    rows = {name: _random_row(bank.plan, seed) for seed, name in enumerate(("one", "two"))}
    for name, row in rows.items():
        bank.add(name, row, trainable=True)
    with torch.no_grad():
        alone = {name: model(**inputs, rows=name).logits for name in ("one", "two", "__base__")}
        mixed = model(**inputs, rows=list(alone)).logits
    _weighted(model(**inputs, rows="one").logits).backward()
    if dead := _dead_sites(bank):
        raise Fault(f"{len(dead)} of {len(bank.plan.sites)} sites never learn, first {dead[0]!r}")
    attachment.detach()
    with torch.no_grad():
        expected = torch.func.functional_call(model, _scaled(model, bank.plan, rows["one"]), (), inputs).logits
    _compare("hand-scaled weights", alone["one"], expected)
    if not _largest(expected - alone["__base__"]) > 1e-3:
        raise Fault("the vectors do not matter")
    _compare("a mixed batch", mixed, torch.stack([logits[i] for i, logits in enumerate(alone.values())]))
    return bank.plan


def _check_causal(model: Any, inputs: dict[str, Any]) -> None:
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -1] = 77
    with torch.no_grad():
        before, after = (model(**given).logits[:, :-1] for given in (inputs, other))
    if not _largest(before - after) <= 1e-4:
        raise Fault("a language model that sees what stands behind a token")


def _random_row(plan: Plan, seed: int) -> Tensor:
    return 0.3 + 1.4 * torch.rand(plan.width, generator=torch.Generator().manual_seed(seed))


def _weighted(logits: Tensor) -> Tensor:
    return (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))).sum()


def _dead_sites(bank: Bank) -> list[str]:
    given = [p.grad.reshape(-1) for p in bank.parameters() if p.grad is not None]
    if not given:
        return [site.name for site in bank.plan.sites]
    return [site.name for site, span in bank.plan.spans() if not given[0][span].abs().max() > 0]


def _scaled(model: nn.Module, plan: Plan, row: Tensor) -> dict[str, Tensor]:
    """Return the weights and biases that hold a row."""
    scaled: dict[str, Tensor] = {}
    for site, span in plan.spans():
        module: Any = model.get_submodule(site.module)
        factor = torch.ones(site.features)
        factor[list(site.channels.indices())] = row[span]
        is_output, is_turned = site.side == "output", type(module).__name__ == "Conv1D"
        weight = scaled.get(f"{site.module}.weight", module.weight)
        scaled[f"{site.module}.weight"] = weight * (factor[:, None] if is_output != is_turned else factor[None])
        if is_output and module.bias is not None:
            scaled[f"{site.module}.bias"] = scaled.get(f"{site.module}.bias", module.bias) * factor
    return scaled


def _check_run(folder: Path, kind: Kind) -> None:
    """Raise a Fault unless training, saving, loading, classifying and generating give what plain passes give."""
    pairs = [(f"profit {verb} {i}", LABELS[verb == "fell"]) for i in range(4) for verb in ("rose", "fell")]
    template = None if kind == "encoder" else "{{ text }} ||| {{ label }}"
    base = ia3.load_base(folder / "base", kind=kind, labels=LABELS if kind == "encoder" else None, say=_hush)
    ia3.train(
        pairs, base, folder / "run", max_steps=2, eval_fraction=0.25, compile="off", recipe="default",
        template=template, say=_hush,
    )  # fmt: skip
    loaded = ia3.load(folder / "run", base=base, say=_hush)
    found = [p.probabilities for p in loaded.classify(TEXTS)]
    found += [loaded.classify([text])[0].probabilities for text in TEXTS]
    merged = ia3.merge(loaded.attachment, loaded.attachment.bank.names[0])
    with torch.no_grad():
        expected = [_plain_probabilities(merged, base, text) for text in TEXTS]
    for given, plain in zip(found, expected * 2, strict=True):
        off = max(abs(given[label] - plain[place].item()) for place, label in enumerate(LABELS))
        if not off <= 1e-4:
            raise Fault(f"classify is off by {off:.1e} from plain passes of the merged model")
    if kind != "encoder":
        loaded.generate(TEXTS, max_new_tokens=3)


def _plain_probabilities(model: Any, base: Any, text: str) -> Tensor:
    """Return the labels' probabilities from whole passes without a cache."""
    if base.kind == "encoder":
        return model(**base.tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
    read, sums = base.tokenizer(text)["input_ids"], []
    for label in LABELS:
        own = [*base.tokenizer(label, add_special_tokens=False)["input_ids"], base.tokenizer.eos_token_id]
        if base.kind == "causal":
            inputs, first = {"input_ids": torch.tensor([read + own])}, len(read) - 1
        else:
            answer = torch.tensor([[base.decoder_start_id, *own[:-1]]])
            inputs, first = {"input_ids": torch.tensor([read]), "decoder_input_ids": answer}, 0
        log = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
        sums.append(sum(log[first + i, token] for i, token in enumerate(own)))
    return torch.stack(sums).softmax(0)


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    off, scale = _largest(found - expected), max(1.0, _largest(expected))
    if not off <= 1e-5 * scale:
        raise Fault(f"{what}: off by {off:.1e} of {scale:.1e}")


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _hush(sentence: str) -> None:
    pass


@dataclass(frozen=True)
class Verdict:
    """What became of a model type as one kind, and why."""

    pair: Pair
    outcome: Outcome
    why: str
