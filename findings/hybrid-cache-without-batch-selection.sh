#!/usr/bin/env bash
# transformers 5.24.0: the cache of LFM2 and other hybrids cannot select or repeat rows of a batch.
#
# `DynamicCache` offers `reorder_cache`, `batch_select_indices` and `batch_repeat_interleave`. In the cache that LFM2
# itself returns, the layers of the convolutions have the first only: the other two end in an AttributeError in the middle,
# where the first layers may be changed already.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

config = Lfm2Config(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, layer_types=["conv", "full_attention"], pad_token_id=0,
)
output = Lfm2ForCausalLM(config).eval()(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]]), use_cache=True)
cache = output["cache" if "cache" in output else "past_key_values"]
print(type(cache).__name__, [type(layer).__name__ for layer in cache.layers])
told = {}
for name, value in (("reorder_cache", torch.tensor([1, 0])), ("batch_select_indices", torch.tensor([0])), ("batch_repeat_interleave", 2)):
    try:
        getattr(cache, name)(value)
        told[name] = "works"
    except AttributeError as error:
        told[name] = str(error)
for name, what in told.items():
    print(f"{name}: {what}")
is_so = told["reorder_cache"] == "works" and all("no attribute" in told[name] for name in list(told)[1:])
raise SystemExit(0 if is_so else "it has changed")
PY
