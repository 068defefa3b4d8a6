#!/usr/bin/env bash
# transformers 5.24.0, JambaForCausalLM: several tokens given behind a cache get other logits than in one pass.
#
# One token at a time behind the cache gives what a pass over the whole text gives. Three at once do not: the Mamba layers
# begin again from nothing, and no error says so. Scoring answers from a prompt's cache, chunked prefill and the check of a
# draft in assisted generation all hand over several tokens.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PY'
import torch
from transformers import JambaConfig, JambaForCausalLM

torch.manual_seed(0)
config = JambaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
    num_experts=2, num_experts_per_tok=1, use_mamba_kernels=False, mamba_d_state=4, mamba_d_conv=4, mamba_expand=2,
    mamba_dt_rank=4, pad_token_id=0,
)
model = JambaForCausalLM(config).eval()
ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def continued(sizes):
    """Return the logits of tokens 5 to 7, given behind a cache of the first five in pieces of these sizes."""
    output, at, found = model(input_ids=ids[:, :5], use_cache=True), 5, []
    for size in sizes:
        name = "cache" if "cache" in output else "past_key_values"
        output = model(input_ids=ids[:, at : at + size], use_cache=True, **{name: output[name]})
        found.append(output.logits)
        at += size
    return torch.cat(found, dim=1)


with torch.no_grad():
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(15)  # as large as those of a trained model, so that the states matter
    whole = model(input_ids=ids).logits[:, 5:]
    apart = {str(sizes): (continued(sizes) - whole).abs().max().item() for sizes in ((1, 1, 1), (3,))}
print(f"largest logit {whole.abs().max():.2f}; largest difference to one pass, by pieces: {apart}")
raise SystemExit(0 if apart["(1, 1, 1)"] < 1e-4 < 0.01 < apart["(3,)"] else "it has changed")
PY
