"""Where shared state lives: one protocol, an SQLite file on one node or a Redis for many."""
