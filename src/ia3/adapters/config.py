"""PEFT's `adapter_config.json` as a value: the thirteen fields of an (IA)³ adapter, read and written.

This file knows fields and JSON; which modules the names select is `targets`' matter, the tensors are `peft_format`'s.
What a file holds beyond the thirteen fields is kept in `extra` and never written, since PEFT would warn of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ia3.bases.revisions import at_revision
from ia3.errors import AdapterError
from ia3.names import CONFIG_FILE, Kind

# The PEFT release whose format this is: the tests write and read both ways with it. PEFT reads the field and does not
# act on it.
PEFT_VERSION = "0.21.2"
TASK_TYPES: Mapping[Kind, str] = {"seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM", "encoder": "SEQ_CLS"}

Names = str | tuple[str, ...] | None


def kind_of_model(model: Any) -> Kind | None:
    """Return what a model is for, by its class: `encoder` means a classifier, None something else."""
    if "ForSequenceClassification" in type(model).__name__:
        return "encoder"
    if getattr(model, "can_generate", lambda: False)():
        return "seq2seq" if model.config.is_encoder_decoder else "causal"
    return None


def kind_of_task(task_type: str | None) -> Kind | None:
    """Return the kind of base that a PEFT task type needs, or None for another task."""
    return next((kind for kind, task in TASK_TYPES.items() if task == task_type), None)


# Tasks by the ends of the names of transformers' classes; the first that fits.
_TASKS_OF_CLASSES: Mapping[str, str] = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "DoubleHeadsModel": "CAUSAL_LM",
    "Model": "FEATURE_EXTRACTION",
}
_IN_WORDS: Mapping[str, str] = {
    "TOKEN_CLS": "a label of each token",
    "QUESTION_ANS": "a place in a text",
    "FEATURE_EXTRACTION": "hidden states, without a head",
}


def task_of_class(name: str) -> str:
    """Return PEFT's word for what a class of transformers is for; the class's own name where PEFT has none."""
    return next((task for end, task in _TASKS_OF_CLASSES.items() if name.endswith(end)), name)


def other_task(config: AdapterConfig) -> str | None:
    """Return an adapter's task if it is neither a label of a text nor text, in words; else None.

    Example:
        >>> other_task(AdapterConfig(task_type="TOKEN_CLS"))
        'TOKEN_CLS (a label of each token)'
    """
    task = config.task
    if task is None or task in TASK_TYPES.values():
        return None
    return f"{task} ({_IN_WORDS[task]})" if task in _IN_WORDS else task


def refuse_task(task: str | None, doing: str) -> None:
    """Raise an AdapterError if there is another task, as `other_task` words it."""
    if task is not None:
        raise AdapterError(
            f"{doing}: its task is {task}, expected one label of each text, or text ({', '.join(TASK_TYPES.values())})."
            " Use it in Python on its own class of model: ia3.peft.PeftModel.from_pretrained(model, folder)."
        )


def read_config(text: str | bytes, where: str) -> AdapterConfig:
    """Return the config that the text of an `adapter_config.json` holds.

    Args:
        text: Content of the file.
        where: Its path, for errors.

    Raises:
        AdapterError: If it is no JSON object, no (IA)³ adapter, or a field has a value of the wrong type; every such
            field is named.
    """
    content = read_object(text, where)
    kind = content.get("peft_type")
    if kind != "IA3":
        told = f"is of type {kind!r}" if kind else "names no peft_type"
        raise AdapterError(f"Reading {where}: the adapter {told}, expected 'IA3'. Load it with the library it is of.")
    if content.get("trainable_token_indices"):
        raise AdapterError(
            f"Reading {where}: trainable_token_indices trains single rows of the embeddings, which is not supported. "
            "Train it with save_embedding_layers or modules_to_save in its place, or load it with PEFT."
        )
    known = {name: value for name, value in content.items() if name in _CHECKS}
    faults = [f"{name!r} {_CHECKS[name][1]}, got {v!r}" for name, v in known.items() if not _CHECKS[name][0](v)]
    if faults:
        raise AdapterError(f"Reading {where}: {'; '.join(faults)}. Correct the file, or save the adapter again.")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    values.pop("peft_type")
    values.setdefault("peft_version", None)
    return AdapterConfig(**values, extra={name: v for name, v in content.items() if name not in _CHECKS})


def read_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a file's content.

    Raises:
        AdapterError: If it is none; the line and column are named.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise AdapterError(
            f"Reading {where}: line {error.lineno}, column {error.colno} is not JSON ({error.msg}). The file is cut "
            "off or was edited; save the adapter again."
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise AdapterError(f"Reading {where}: it is not JSON text ({error}). Save the adapter again.") from error
    if not isinstance(content, dict):
        raise AdapterError(f"Reading {where}: it holds {type(content).__name__}, expected one JSON object.")
    return content


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return _is_list(value) or (isinstance(value, str) and _compiles(value))


def _compiles(expression: str) -> bool:
    try:
        re.compile(expression)
    except re.error:
        return False
    return True


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_mapping(value: Any) -> bool:
    return value is None or isinstance(value, dict)


_NAMES = "must be a list of names, one regular expression, or null"
_CHECKS: Mapping[str, tuple[Any, str]] = {  # in the order in which PEFT writes them
    "auto_mapping": (_is_mapping, "must be an object or null"),
    "base_model_name_or_path": (_is_text, "must be text or null"),
    "exclude_modules": (_is_names, _NAMES),
    "fan_in_fan_out": (_is_flag, "must be true or false"),
    "feedforward_modules": (_is_names, _NAMES),
    "inference_mode": (_is_flag, "must be true or false"),
    "init_ia3_weights": (_is_flag, "must be true or false"),
    "modules_to_save": (_is_list, "must be a list of names or null"),
    "peft_type": (_is_text, "must be text"),
    "peft_version": (_is_text, "must be text or null"),
    "revision": (_is_text, "must be text or null"),
    "target_modules": (_is_names, _NAMES),
    "task_type": (_is_text, "must be text or null"),
}


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of PEFT's `IA3Config`.

    Attributes:
        auto_mapping: Class of the base and its library, where no task type says it.
        base_model_name_or_path: Hub id or folder of the base.
        exclude_modules: Names or a regular expression of modules that are no targets.
        fan_in_fan_out: Whether the targets hold their weights as (inputs, outputs), as GPT-2's do.
        feedforward_modules: Those of the targets whose input is multiplied.
        inference_mode: Whether PEFT loads the adapter frozen.
        init_ia3_weights: Whether a new vector of PEFT's begins as ones.
        modules_to_save: Names of the heads.
        peft_version: The version of PEFT that wrote the file, or whose format it is.
        revision: Revision of the base on the hub.
        target_modules: Names or a regular expression of the modules with a vector.
        task_type: PEFT's word for what the base is for.
        extra: What else the file held.
    """

    auto_mapping: Mapping[str, Any] | None = None
    base_model_name_or_path: str | None = None
    exclude_modules: Names = None
    fan_in_fan_out: bool = False
    feedforward_modules: Names = None
    inference_mode: bool = True
    init_ia3_weights: bool = True
    modules_to_save: tuple[str, ...] | None = None
    peft_version: str | None = PEFT_VERSION
    revision: str | None = None
    target_modules: Names = None
    task_type: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The base in words, for errors."""
        if not self.base_model_name_or_path:
            return "an unnamed base"
        return f"{at_revision(self.base_model_name_or_path, self.revision)} ({CONFIG_FILE})"

    @property
    def task(self) -> str | None:
        """PEFT's word for what the base is for: the task type, else what the base's class in transformers is for."""
        named = self.auto_mapping or {}
        is_known = str(named.get("parent_library") or "").partition(".")[0] == "transformers"
        of_class = task_of_class(str(named.get("base_model_class"))) if is_known else None
        return self.task_type or of_class

    def to_json(self) -> str:
        """Return the text of `adapter_config.json`, its fields in PEFT's order."""
        content: dict[str, Any] = {"peft_type": "IA3"}
        for name in _CHECKS:
            if name != "peft_type":
                value = getattr(self, name)
                content[name] = list(value) if isinstance(value, tuple) else value
        return json.dumps({name: content[name] for name in _CHECKS}, indent=2, ensure_ascii=False) + "\n"
