"""Renderers: an answer as JSON, as terminal text, and as files. Nothing is computed here."""
