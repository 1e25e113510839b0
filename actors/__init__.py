"""Thin job shells round planner and executor: broker, middleware, retries.

A message is a hint and holds an identifier only. Each job loads the present state, asks a pure planner what
is due, does it, publishes, records, and asks again; so a lost message costs time, and one too many does no
harm.
"""
