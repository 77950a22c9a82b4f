"""Rows that are doubled, wrong or lost: found in every table, and put right."""
