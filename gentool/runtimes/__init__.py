"""How a model's mathematics runs."""
