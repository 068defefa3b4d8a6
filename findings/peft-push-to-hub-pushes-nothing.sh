#!/usr/bin/env bash
# PEFT 0.21.2: `PeftModel.save_pretrained(push_to_hub=True)` pushes nothing and says nothing.
#
# Its docstring passes further keyword arguments "along to the push_to_hub method". The folder is written, the hub never
# asked: with the network forbidden the call succeeds, where transformers' own save_pretrained says that it cannot reach
# the hub. Who trains on a rented machine and stops it afterwards has no adapter.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2,
)
base = LlamaForCausalLM(config)
try:
    base.save_pretrained("base", push_to_hub=True, repo_id="someone/something")
    told = "nothing"
except Exception as error:
    told = type(error).__name__
print("transformers, offline:", told)
model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
given = model.save_pretrained("adapter", push_to_hub=True, repo_id="someone/something")
print("PEFT, offline:", given, sorted(path.name for path in Path("adapter").iterdir()))
raise SystemExit(0 if told == "OfflineModeIsEnabled" and given is None else "it has changed")
PY
