"""What runs in the environment of SetFit: `python -I fewshot_setfit_child.py ASKED.json ANSWER.json`.

    asked    model, texts, labels (numbers), test (texts), rate, seed, pairs (for each row), batch, most_steps, folder
    answer   classes (numbers, in the order of the columns), probabilities (a row for each test text)

It knows SetFit and nothing of this project, which is not there.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Train as SetFit's documentation does and return the probabilities of the test texts."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(asked["model"], device="cpu")
    steps = math.ceil(2 * asked["pairs"] * len(asked["texts"]) / asked["batch"])
    arguments = TrainingArguments(
        output_dir=asked["folder"], batch_size=asked["batch"], num_epochs=1, num_iterations=asked["pairs"],
        max_steps=min(steps, asked["most_steps"]), body_learning_rate=asked["rate"], seed=asked["seed"],
        save_strategy="no", report_to="none", show_progress_bar=False,
    )  # fmt: skip
    rows = Dataset.from_dict({"text": asked["texts"], "label": asked["labels"]})
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    probabilities = model.predict_proba(asked["test"], as_numpy=True)
    return {"classes": [int(one) for one in model.model_head.classes_], "probabilities": probabilities.tolist()}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
