"""Checkpoints of T-Few, the code of the (IA)³ paper: one `.pt` file with a state dict of vectors.

From r-three/t-few: `configs/ia3.json` puts a scaling of rank 1 on the layers `k|v|wi_1.*` of every attention and gated
feed-forward and trains what matches `.*lora_b.*`; `src/models/lora.py` (LoRALinear) multiplies the output of the layer
by `multi_lora_b`, shape (out, 1), and its input by `multi_lora_a`, shape (1, in), where that is trained;
`src/models/EncoderDecoder.py` (save_model) writes the trained parameters of the transformer under their names in it, as
`encoder.block.0.layer.0.SelfAttention.k.multi_lora_b`. This file knows names and shapes, no model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ia3.adapters.foreign import ForeignAdapter, read_tensor_file
from ia3.adapters.layout import Place
from ia3.errors import AdapterError

_OUTPUT = ".multi_lora_b"
_INPUT = ".multi_lora_a"
_LOW_RANK = (".lora_a", ".lora_b")


def read_t_few(path: Path) -> ForeignAdapter:
    """Return the vectors of a checkpoint such as `finish.pt` or `global_step1000.pt`.

    Raises:
        AdapterError: If it holds anything but (IA)³ vectors: LoRA matrices, a scaling of another rank, other weights.
    """
    tensors = read_tensor_file(path)
    doing = f"Importing {path} as a checkpoint of T-Few"
    _refuse_others(tensors, doing)
    vectors: dict[Place, Tensor] = {}
    for key, tensor in tensors.items():
        vector = tensor.flatten().to(torch.float32)
        if key.endswith(_OUTPUT):
            vectors[key.removesuffix(_OUTPUT), "output"] = vector
        elif not bool((vector == 1).all()):  # an input side that was not trained
            vectors[key.removesuffix(_INPUT), "input"] = vector
    return ForeignAdapter(str(path), "t-few", vectors)


def _refuse_others(tensors: dict[str, Tensor], doing: str) -> None:
    low_rank = [key for key in tensors if key.endswith(_LOW_RANK)]
    if low_rank:
        raise AdapterError(
            f"{doing}: {low_rank[0]!r} belongs to LoRA, whose matrices are no vectors. Import an (IA)³ checkpoint."
        )
    others = [key for key in tensors if not key.endswith((_OUTPUT, _INPUT))]
    if others or not tensors:
        raise AdapterError(
            f"{doing}: got {others[0] if others else 'no tensors'!r}, expected names that end in '{_OUTPUT}' alone. "
            "Import a checkpoint that was trained with configs/ia3.json."
        )
    for key, tensor in tensors.items():
        rank = tensor.shape[key.endswith(_OUTPUT)] if tensor.dim() == 2 else 0
        if rank != 1 or not tensor.is_floating_point():
            raise AdapterError(
                f"{doing}: {key!r} has shape {tuple(tensor.shape)} and {tensor.dtype}, expected "
                f"{'(channels, 1)' if key.endswith(_OUTPUT) else '(1, channels)'} of floating point: a scaling of rank "
                "1. Import an (IA)³ checkpoint."
            )
