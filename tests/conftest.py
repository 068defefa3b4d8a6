"""What every test shares: one thread (small models run slower on two, and two workers share the cores), no hub."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("ia3", deadline=None)  # the machine may be busy; no test is timed
hypothesis.settings.load_profile("ia3")
