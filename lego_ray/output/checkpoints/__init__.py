"""Results of finished tasks, kept until the merge is published."""
