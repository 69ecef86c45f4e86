"""Answers by vote: few-shot prompts, the samples' answers and the rows they are asked about."""
