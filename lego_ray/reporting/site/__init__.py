"""A catalog as a static site: pages of data that a small program in the browser shows."""
