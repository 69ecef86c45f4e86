"""What a model is, from its files: sizes, tokens that greedy decoding can never produce, embeddings
that look untrained, products that quantise badly. Pure functions; nothing is run or printed.
"""
