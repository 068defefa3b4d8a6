#!/usr/bin/env bash
# PEFT 0.21.2: `AutoPeftModel….from_pretrained(folder, subfolder=…)` looks for the base in that subfolder as well.
#
# An adapter in a subfolder loads by PeftModel.from_pretrained with the same argument. The Auto class hands it on to the
# base's from_pretrained, and ends with the sentence that the *base* is of an unknown kind.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2,
)
LlamaForCausalLM(config).save_pretrained("base")
base = LlamaForCausalLM.from_pretrained("base")
get_peft_model(base, LoraConfig(task_type="CAUSAL_LM")).save_pretrained("adapters/one")
loaded = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained("base"), "adapters", subfolder="one")
print("PeftModel:", type(loaded).__name__)
try:
    print("the Auto class:", type(AutoPeftModelForCausalLM.from_pretrained("adapters", subfolder="one")).__name__)
    told = ""
except Exception as error:
    told = str(error)
    print("the Auto class:", type(error).__name__, told)
raise SystemExit(0 if "base" in told and "model_type" in told else "it has changed")
PY
