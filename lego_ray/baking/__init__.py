"""A merged adapter written into its base model."""
