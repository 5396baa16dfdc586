"""The drift monitor: what models are asked and what they answer, counted and judged."""
