"""Noticing that a managed folder changed. Nothing here acts on what it sees."""
