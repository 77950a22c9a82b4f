"""lego-ray beside the tools that people merge adapters with today, on the same adapters."""
