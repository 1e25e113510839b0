"""Composition root: settings, wiring, command line, agent, embedded Redis."""
