"""A base whose weights stay in their files until they are read: the same base, in hardly any memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from ia3.adapters.folder import load_adapter
from ia3.adapters.identity import base_fingerprint
from ia3.bases.folders import stored_dtype
from ia3.bases.loading import load_base
from ia3.cli.import_adapter import VERB
from ia3.cli.parsing import read_arguments
from ia3.errors import SettingsError
from tests.families import CASES, make_model
from tests.models import tiny_tokenizer

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _saved(folder: Path, model: Any, kind: str, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def _assert_same_base(folder: Path, **options: Any) -> torch.dtype:
    """Check that a folder is one base, read either way; return the number type it was read in."""
    whole, stored = load_base(folder, **options), load_base(folder, dtype="stored", **options)
    assert stored.head_modules == whole.head_modules
    assert base_fingerprint(stored.model, stored.head_modules) == base_fingerprint(whole.model, whole.head_modules)
    return stored.model.get_input_embeddings().weight.dtype


@pytest.mark.parametrize("family", CASES)
def test_every_family_is_the_same_base(family: str, tmp_path: Path) -> None:
    """Half of them tie their heads, and transformers renames the parameters of some when it loads them."""
    kind = CASES[family].kind
    folder = _saved(tmp_path, make_model(family, torch.bfloat16), kind)
    assert _assert_same_base(folder, kind=kind) == torch.bfloat16


@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("family", ["t5-gated", "bert", "llama"])
def test_a_base_is_the_same_in_whatever_type_it_was_stored(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = _saved(tmp_path, make_model(family, dtype), CASES[family].kind)
    read = _assert_same_base(folder, kind=CASES[family].kind)
    assert read == (torch.float32 if dtype == torch.float64 else dtype)


def _without_gamma(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return BERT's parameters by the names that its first checkpoints have for them."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in tensors.items():
        ending = next((end for end in old if name.endswith(end)), None)
        renamed[name if ending is None else name.removesuffix(ending) + old[ending]] = tensor
    return renamed


def test_old_names_files_in_parts_and_pickled_files_are_the_same_base(tmp_path: Path) -> None:
    model = hf.BertForMaskedLM(make_model("bert").config).bfloat16()
    folder = _saved(tmp_path / "whole", model, "encoder")
    expected = base_fingerprint(load_base(folder).model, ["classifier"])
    tensors = load_file(folder / "model.safetensors")
    for name in ("old", "pickled", "parts"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
    save_file(_without_gamma(tensors), tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    torch.save(tensors, tmp_path / "pickled" / "pytorch_model.bin")
    model.save_pretrained(tmp_path / "parts", max_shard_size="4KB")
    assert len(list((tmp_path / "parts").glob("model-*"))) > 3
    for name in ("old", "pickled", "parts"):
        stored = load_base(tmp_path / name, dtype="stored")
        assert base_fingerprint(stored.model, stored.head_modules) == expected
        assert {parameter.dtype for parameter in stored.model.parameters()} == {torch.bfloat16}


def test_numbers_that_would_be_rounded_twice_are_read_in_float32(tmp_path: Path) -> None:
    half, single = torch.zeros(8, dtype=torch.float16), torch.zeros(2, dtype=torch.float32)
    (tmp_path / "config.json").write_text("{}")
    for tensors, expected in (
        ({"a": half}, torch.float16),
        ({"a": half, "b": single}, torch.float32),
        ({"a": half.bfloat16(), "b": single}, torch.bfloat16),
        ({"a": half.double(), "b": single}, torch.float32),
        ({"a": half.to(torch.int8)}, torch.float32),
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        assert stored_dtype(tmp_path, "base") == expected


def test_a_slip_in_the_number_type_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'storde' is unknown\. Did you mean 'stored'"):
        load_base(tmp_path, dtype="storde")


# --- memory ---


def _write_t5(folder: Path, *, layers: int, width: int) -> int:
    """Write a T5 v1.1 of T0-3B's proportions, a file for each block, and return its bytes; one block is in memory."""
    config = hf.T5Config(
        d_model=2048, d_ff=width, num_layers=layers, num_heads=32, d_kv=64, feed_forward_proj="gated-gelu",
        vocab_size=32128, tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = hf.T5ForConditionalGeneration(config)
    tiny_tokenizer("seq2seq").save_pretrained(folder)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=random).to(torch.bfloat16) * 0.05
    blocks: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        key = ".".join(name.split(".")[:3])
        blocks.setdefault(key, {})[name] = parameter
    where: dict[str, str] = {}
    for number, parameters in enumerate(blocks.values()):
        file = f"model-{number:05d}.safetensors"
        tensors = {n: noise.repeat(-(-p.numel() >> 20))[: p.numel()].view(p.shape) for n, p in parameters.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    vectors = {
        f"{path}.multi_lora_b": torch.rand(module.out_features, 1) + 0.5
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in ("k", "v", "wi_1")
    }
    torch.save(vectors, folder / "finish.pt")
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _anonymous(process: int) -> int:
    """Return the bytes of memory of a process that are no pages of files; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


@contextmanager
def _watched(process: int) -> Iterator[list[int]]:
    """Keep the most anonymous memory that a process has had since, as the only number of a list."""
    most, is_over = [_anonymous(process)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            most[0] = max(most[0], _anonymous(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


needs_proc = pytest.mark.skipif(not _anonymous(os.getpid()), reason="this system does not tell anonymous memory")


@needs_proc
def test_an_adapter_is_imported_without_the_weights_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Importing loaded its base in float32: 11 GB for T0-3B, of which 64 numbers of each parameter were looked at."""
    size = _write_t5(tmp_path / "base", layers=3, width=1024)
    assert size > 450e6
    given = [str(tmp_path / "base" / "finish.pt"), "--base", str(tmp_path / "base")]
    before = _anonymous(os.getpid())
    with _watched(os.getpid()) as most:
        assert VERB.run(read_arguments(VERB, [*given, "--output", str(tmp_path / "stored")])) == 0
    assert most[0] - before < 100 << 20
    shutil.rmtree(tmp_path / "base")
    capsys.readouterr()
    assert load_adapter(tmp_path / "stored").record["base"]["fingerprint"]


@needs_proc
@pytest.mark.slow
def test_an_adapter_of_t0_3b_is_imported_and_packed_within_a_gigabyte(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 8e9:
        pytest.skip("less than 8 GB of disk are free")
    base = tmp_path / "base"
    try:
        assert _write_t5(base, layers=24, width=5120) > 5.3e9
        run = [sys.executable, "-m", "ia3", "adapters"]
        for arguments in (
            ["import", str(base / "finish.pt"), "--base", str(base), "--output", str(tmp_path / "ours")],
            ["pack", str(tmp_path / "store.ia3"), str(tmp_path / "ours"), "--base", str(base)],
        ):
            process = subprocess.Popen([*run, *arguments], stdout=subprocess.DEVNULL)
            most = 0
            while process.poll() is None:
                most = max(most, _anonymous(process.pid))
                time.sleep(0.005)
            assert process.returncode == 0
            assert most < 1 << 30  # with what was imported
    finally:
        shutil.rmtree(base, ignore_errors=True)
