"""From table files to batches of token ids: examples, tables, splits, statistics, templates, encoding, batches."""
