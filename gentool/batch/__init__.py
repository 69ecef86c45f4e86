"""Many prompts: rows in, rows out."""
