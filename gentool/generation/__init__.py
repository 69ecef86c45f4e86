"""Text in, text out: requests and the model's verbs."""
