"""The model card of a merged adapter."""
