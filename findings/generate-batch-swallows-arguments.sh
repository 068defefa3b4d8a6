#!/usr/bin/env bash
# transformers 5.24.0, continuous batching: `generate_batch` takes any argument, and runs the model where no context is.
#
# `generate` refuses a misspelt argument by name. `generate_batch` answers as if it had not been given (here max_new_token,
# and one that does not exist), and runs the model in a thread of its own, in which every context variable of the caller
# has its default: what a library keeps in one (which adapter, which trace, which user) is not seen, and no error says so.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
from contextvars import ContextVar

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=256, eos_token_id=None, pad_token_id=0, bos_token_id=1,
)
model = LlamaForCausalLM(config).eval()
where, seen = ContextVar("where", default="nowhere"), set()
model.model.register_forward_pre_hook(lambda *_: seen.add(where.get()))
where.set("the caller's context")
try:
    model.generate(torch.tensor([[5, 6]]), max_new_token=3)
    refused = False
except ValueError as error:
    refused = "max_new_token" in str(error)
print("generate refuses max_new_token:", refused)
settings = GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1, pad_token_id=0)
answers = model.generate_batch([[5, 6], [7, 8]], generation_config=settings, max_new_token=3, no_such_argument=1)
lengths = [len(answer.generated_tokens) for answer in answers.values()]
print("generate_batch answers with", lengths, "tokens; its forward pass sees", seen)
raise SystemExit(0 if refused and lengths == [2, 2] and seen == {"nowhere"} else "it has changed")
PY
