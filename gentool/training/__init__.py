"""Training from nothing: a recipe and a corpus in, a model folder out."""
