"""Noticing that a managed folder changed. Nothing here acts on what it sees.

Two ways lead to the same word, "folder F changed": the kernel's events, which make it quick, and a timer,
which makes it sure. Whoever gets the word looks at the folder itself, so a word too many does no harm and a
lost one costs time only.
"""
