#!/usr/bin/env bash
# torch 2.13.0: index_copy_ and index_add_ keep the whole source for the backward pass; index_put_ and scatter_ do not.
#
# The gradient of the source is the gradient at its places, for which the places are enough. A training step that writes
# selected rows into a larger tensor holds every row a second time until its backward pass, or not, by which of these
# operations it uses, with the same values and gradients.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0" "numpy>=2.0"
venv/bin/python - <<'PY'
import torch

places, wide = torch.arange(6), torch.arange(6)[:, None].expand(6, 4)
ways = {
    "index_copy_": lambda out, rows: out.index_copy_(0, places, rows),
    "index_add_": lambda out, rows: out.index_add_(0, places, rows),
    "index_put_": lambda out, rows: out.index_put_((places,), rows),
    "scatter_": lambda out, rows: out.scatter_(0, wide, rows),
}
keeps, gradients = {}, {}
for name, write in ways.items():
    saved = []
    leaf = torch.ones(6, 4, requires_grad=True)
    source = leaf * 1.0
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        out = write(torch.zeros(10, 4), source)
    out.mul(torch.arange(10.0)[:, None]).sum().backward()
    keeps[name], gradients[name] = source.data_ptr() in saved, leaf.grad
print("keeps its source:", keeps)
same = all(torch.equal(one, gradients["index_put_"]) for one in gradients.values())
is_so = same and keeps == {"index_copy_": True, "index_add_": True, "index_put_": False, "scatter_": False}
raise SystemExit(0 if is_so else "it has changed")
PY
