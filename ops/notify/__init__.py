"""Telling people and programs of trouble: what a letter says, how it looks, and how it is sent.

`settings` reads the file that says who is told of what; `letter` is what is told, `letter_text` and `letter_html` how
it reads; `mail` and `webhook` send it. What is worth telling is decided in `policies.notices`.
"""
