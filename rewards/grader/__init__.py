"""Is this answer the gold answer? Its public names are those of `rewards.answer`.

extract (where the answer is) -> lexer -> parser -> values -> compare (numeric, sets)
"""
