"""The PEFT notebook for (IA)³ on Financial PhraseBank, run by this package: only the import line is another.

    python examples/peft_tutorial.py --model bigscience/mt0-large --data train.csv --output mt0-large-ia3

In PEFT's notebook the line is `from peft import AutoPeftModelForSeq2SeqLM, IA3Config, get_peft_model`; a test runs both
and compares the losses and the saved tensors. The table needs the columns `sentence` and `label`. Like the notebook it
pads every text to 128 tokens and leaves dropout on; `ia3 train` does neither. Needs the extra `datasets`.
"""

from __future__ import annotations

import argparse

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, default_data_collator, get_linear_schedule_with_warmup

from ia3.peft import AutoPeftModelForSeq2SeqLM, IA3Config, get_peft_model

parser = argparse.ArgumentParser(description="The PEFT notebook for (IA)³.")
parser.add_argument("--model", default="bigscience/mt0-large", help="folder or hub id of an encoder-decoder")
parser.add_argument("--data", default="src/ia3/demo/business_news.csv", help="csv with the columns sentence and label")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--output", default="peft_tutorial_adapter", help="folder for the adapter")
arguments = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
text_column = "sentence"
label_column = "text_label"
max_length = 128
lr = 8e-3
batch_size = 8

# load the table and hold a tenth out
dataset = load_dataset("csv", data_files=arguments.data)["train"].train_test_split(test_size=0.1, seed=42)
dataset["validation"] = dataset["test"]
del dataset["test"]
classes = sorted(set(dataset["train"]["label"]))
dataset = dataset.map(lambda rows: {"text_label": [str(label) for label in rows["label"]]}, batched=True)
print(dataset, classes)

# texts to 128 tokens, labels to 3; padding does not count in the loss
tokenizer = AutoTokenizer.from_pretrained(arguments.model)


def preprocess_function(examples):
    inputs = examples[text_column]
    targets = examples[label_column]
    model_inputs = tokenizer(inputs, max_length=max_length, padding="max_length", truncation=True, return_tensors="pt")
    labels = tokenizer(targets, max_length=3, padding="max_length", truncation=True, return_tensors="pt")
    labels = labels["input_ids"]
    labels[labels == tokenizer.pad_token_id] = -100
    model_inputs["labels"] = labels
    return model_inputs


processed_datasets = dataset.map(
    preprocess_function,
    batched=True,
    remove_columns=dataset["train"].column_names,
    load_from_cache_file=False,
    desc="Running tokenizer on dataset",
)
train_dataloader = DataLoader(
    processed_datasets["train"], shuffle=True, collate_fn=default_data_collator, batch_size=batch_size
)
eval_dataloader = DataLoader(processed_datasets["validation"], collate_fn=default_data_collator, batch_size=batch_size)

# the adapter
model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model)
peft_config = IA3Config(task_type="SEQ_2_SEQ_LM")
model = get_peft_model(model, peft_config)
model.print_trainable_parameters()
torch.manual_seed(42)  # after get_peft_model, in which PEFT draws random numbers and ia3 does not

optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
lr_scheduler = get_linear_schedule_with_warmup(
    optimizer=optimizer, num_warmup_steps=0, num_training_steps=len(train_dataloader) * arguments.epochs
)

# training and evaluation
model = model.to(device)
history = []
for epoch in range(arguments.epochs):
    model.train()
    total_loss = 0
    for batch in tqdm(train_dataloader):
        batch = {k: v.to(device) for k, v in batch.items()}
        outputs = model(**batch)
        loss = outputs.loss
        total_loss += loss.detach().float()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()

    model.eval()
    eval_loss = 0
    eval_preds = []
    for batch in tqdm(eval_dataloader):
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.no_grad():
            outputs = model(**batch)
        eval_loss += outputs.loss.detach().float()
        predicted = torch.argmax(outputs.logits, -1).detach().cpu().numpy()
        eval_preds.extend(tokenizer.batch_decode(predicted, skip_special_tokens=True))

    eval_epoch_loss = eval_loss / len(eval_dataloader)
    eval_ppl = torch.exp(eval_epoch_loss)
    train_epoch_loss = total_loss / len(train_dataloader)
    train_ppl = torch.exp(train_epoch_loss)
    history.append({"train_loss": train_epoch_loss.item(), "eval_loss": eval_epoch_loss.item()})
    print(f"{epoch=}: {train_ppl=} {train_epoch_loss=} {eval_ppl=} {eval_epoch_loss=}")

correct = 0
total = 0
for pred, true in zip(eval_preds, dataset["validation"]["text_label"], strict=True):
    if pred.strip() == true.strip():
        correct += 1
    total += 1
accuracy = correct / total * 100
print(f"{accuracy=} % on the evaluation dataset")

# save, load and use it
model.save_pretrained(arguments.output)
loaded_model = AutoPeftModelForSeq2SeqLM.from_pretrained(arguments.output).to(device)
loaded_model.eval()
inputs = tokenizer(dataset["validation"][text_column][0], return_tensors="pt")
print(dataset["validation"][text_column][0])
with torch.no_grad():
    outputs = loaded_model.generate(input_ids=inputs["input_ids"].to(device), max_new_tokens=10)
    print(tokenizer.batch_decode(outputs.detach().cpu().numpy(), skip_special_tokens=True))
