#!/usr/bin/env bash
# transformers 5.24.0, ProphetNetForConditionalGeneration: the logits of a decoder's token change with the tokens behind it.
#
# A decoder's logits at a place depend on what stands before it. ProphetNet's main stream gives other logits for the first
# places as soon as the decoder's sequence is longer, masked or not: a target scored in a batch beside a longer one gets
# another probability than alone, and no argument of the forward pass prevents it.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import torch
from transformers import ProphetNetConfig, ProphetNetForConditionalGeneration

torch.manual_seed(0)
config = ProphetNetConfig(
    vocab_size=40, hidden_size=16, encoder_ffn_dim=24, decoder_ffn_dim=24, num_encoder_layers=1, num_decoder_layers=1,
    num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=32, init_std=0.5,
)
model = ProphetNetForConditionalGeneration(config).eval()
text = torch.tensor([[5, 6, 7, 8]])
short, long = torch.tensor([[2, 9, 10]]), torch.tensor([[2, 9, 10, 11, 12, 13]])
mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
with torch.no_grad():
    alone = model(input_ids=text, decoder_input_ids=short).logits
    behind = model(input_ids=text, decoder_input_ids=long).logits[:, :3]
    masked = model(input_ids=text, decoder_input_ids=long, decoder_attention_mask=mask).logits[:, :3]
print(f"largest logit {alone.abs().max():.2f}")
print(f"largest change with three tokens more behind: {(alone - behind).abs().max():.2f}, masked: {(alone - masked).abs().max():.2f}")
changes = [(alone - other).abs().max().item() > 0.01 for other in (behind, masked)]
raise SystemExit(0 if all(changes) else "it has changed: the logits are the same now")
PY
