"""Ids in, ids out: the engine and everything that decides which token comes next. Knows no text."""
