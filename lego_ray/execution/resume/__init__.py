"""What a run keeps until it is published: checkpoints, and who may use them."""
