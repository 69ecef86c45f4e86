"""Few-shot texts made from facts."""
