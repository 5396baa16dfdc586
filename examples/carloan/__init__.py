"""Car loans: a model, its reference, and a world that changes. See data/SOURCE.md."""
