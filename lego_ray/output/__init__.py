"""What lies at an output: manifest, adapter files, model card, checkpoints, running sums."""
