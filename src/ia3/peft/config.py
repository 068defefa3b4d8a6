"""PEFT's configs of an adapter, read from and written to a folder: `TaskType`, `PeftConfig` and `IA3Config`.

They hold what the user said, with PEFT's names, order and defaults; which modules that selects in a model is `targets`'
matter. Unlike other dataclasses here they can be changed, since programs written for PEFT do change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ia3.adapters.attached import without_hub_options
from ia3.adapters.config import PEFT_VERSION, AdapterConfig, Names, read_config
from ia3.adapters.places import find_folder
from ia3.errors import AdapterError, SettingsError, near_matches
from ia3.files import replace_files
from ia3.names import CONFIG_FILE

PEFT_TYPE = "IA3"


class TaskType(StrEnum):
    """What a model is for, in PEFT's words."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


# Names of heads that PEFT trains and saves for a task, whether or not `modules_to_save` names them.
TASK_HEADS: Mapping[TaskType, tuple[str, ...]] = {
    TaskType.SEQ_CLS: ("classifier", "score"),
    TaskType.TOKEN_CLS: ("classifier", "score"),
    TaskType.QUESTION_ANS: ("qa_outputs",),
}


@dataclass
class PeftConfig:
    """What PEFT's configs have in common; `PeftConfig.from_pretrained(folder)` gives an `IA3Config`.

    Attributes:
        task_type: What the model is for; decides which head is trained and saved.
        peft_type: Always IA3.
        auto_mapping: Class of the base and its library, where no task type says it.
        peft_version: The version of PEFT whose format it is.
        base_model_name_or_path: Hub id or folder of the base; `get_peft_model` fills it in.
        revision: Revision of the base on the hub.
        inference_mode: Whether the adapter is frozen.
    """

    task_type: TaskType | str | None = None
    peft_type: str = PEFT_TYPE
    auto_mapping: dict[str, Any] | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False

    def __post_init__(self) -> None:
        if self.peft_type != PEFT_TYPE:
            raise SettingsError(f"Making a PEFT config: peft_type is {self.peft_type!r}, expected {PEFT_TYPE!r}.")
        if self.task_type is not None:
            if self.task_type not in list(TaskType):
                raise SettingsError(
                    f"Making a PEFT config: task_type {str(self.task_type)!r} is unknown."
                    f"{near_matches(str(self.task_type), map(str, TaskType))}"
                )
            self.task_type = TaskType(self.task_type)
        self.peft_version = self.peft_version or PEFT_VERSION

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, *, revision: str | None = None
    ) -> IA3Config:
        """Return the config in an adapter's folder, ours or PEFT's.

        Args:
            pretrained_model_name_or_path: A folder, or an id on the hub.
            subfolder: Folder inside it.
            revision: Of the id on the hub; not of the base.

        Raises:
            AdapterError: If there is no (IA)³ adapter, or its config is broken.
        """
        path = find_folder(pretrained_model_name_or_path, revision=revision, subfolder=subfolder) / CONFIG_FILE
        try:
            text = path.read_bytes()
        except OSError as error:
            raise AdapterError(
                f"Reading {path}: it cannot be read ({error.strerror}). Save the adapter again, or give another folder."
            ) from error
        return config_of(read_config(text, str(path)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict."""
        return asdict(self)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write `adapter_config.json` into a folder.

        Args:
            save_directory: Made if it is not there.
            kwargs: `push_to_hub` must be false, and those of sending to the hub have no effect.

        Raises:
            SettingsError: For another argument.
        """
        for name in without_hub_options(kwargs, save_directory):
            raise SettingsError(f"Saving a PEFT config to {save_directory}: {name!r} is no argument. Leave it out.")
        text = adapter_config(self).to_json()
        replace_files(Path(save_directory), {CONFIG_FILE: text.encode()}, CONFIG_FILE)


@dataclass
class IA3Config(PeftConfig):
    """What an (IA)³ adapter rescales and how it begins; PEFT's arguments.

    Attributes:
        target_modules: Modules with a vector: names (matched in full or after a dot), one regular expression (matched
            in full), or `all-linear`. Left out, this package's plan of the model.
        exclude_modules: Modules that are no targets, in the same ways.
        feedforward_modules: Those of the targets whose input is multiplied: ends of paths, or one regular expression.
            Left out beside targets, PEFT's default for the type of model.
        fan_in_fan_out: Whether the targets hold their weights as (inputs, outputs). It is set by the model: GPT-2's do.
        modules_to_save: Ends of paths of modules to train and save whole.
        init_ia3_weights: Whether the vectors begin as ones; else as random numbers of a standard normal distribution.

    Example:
        >>> IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"]).task_type
        <TaskType.SEQ_2_SEQ_LM: 'SEQ_2_SEQ_LM'>
    """

    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    feedforward_modules: list[str] | set[str] | str | None = None
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    init_ia3_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules", "feedforward_modules"):
            setattr(self, name, _as_set(name, getattr(self, name)))
        if isinstance(self.modules_to_save, str):
            raise SettingsError(
                f"Making an IA3Config: modules_to_save is the text {self.modules_to_save!r}, expected a list of names. "
                f"Give [{self.modules_to_save!r}]."
            )
        targets, feedforward = self.target_modules, self.feedforward_modules
        if isinstance(targets, set) and isinstance(feedforward, set) and not feedforward <= targets:
            extra = ", ".join(map(repr, sorted(feedforward - targets)))
            raise SettingsError(
                f"Making an IA3Config: feedforward_modules has {extra}, which target_modules has not; expected a "
                "subset of it. Add the names to target_modules."
            )


def config_of(saved: AdapterConfig) -> IA3Config:
    """Return what an `adapter_config.json` says; unknown fields are left out."""
    values: dict[str, Any] = {name: value for name, value in vars(saved).items() if name != "extra"}
    values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    feedforward = values.pop("feedforward_modules")
    config = IA3Config(**values)
    # past the check of the subset: PEFT writes such configs itself (all-linear), and there the tensors say the side
    config.feedforward_modules = _as_set("feedforward_modules", feedforward)
    return config


def adapter_config(config: PeftConfig) -> AdapterConfig:
    """Return the config as a value with sorted names."""
    values = {name: value for name, value in vars(config).items() if name != "peft_type"}
    values["task_type"] = None if config.task_type is None else str(config.task_type)
    for name in ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"):
        if name in values:
            values[name] = _as_names(values[name])
    return AdapterConfig(**values)


def _as_set(name: str, value: Any) -> set[str] | str | None:
    if value is None or isinstance(value, str):
        return value
    names = set(value)
    if not all(isinstance(item, str) for item in names):
        raise SettingsError(f"Making an IA3Config: {name} is {value!r}, expected names or one regular expression.")
    return names


def _as_names(value: Any) -> Names:
    if value is None or isinstance(value, str):
        return value
    return tuple(sorted(value)) if isinstance(value, set) else tuple(value)
