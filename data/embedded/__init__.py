"""A world of its own: stories of numbers, a tokenizer and a small model, with nothing to download."""
