"""Where adapters lie under a source, and what their headers say."""
