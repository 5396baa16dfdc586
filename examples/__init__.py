"""Examples: they use Tidegate as a stranger would, by its command line and over HTTP only."""
