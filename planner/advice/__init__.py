"""Advice: what each choice does, and what published recipes and laws say about it."""
