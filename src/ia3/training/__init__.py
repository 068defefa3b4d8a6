"""Training: settings, losses, the loop, checkpoints and the record of a run."""
