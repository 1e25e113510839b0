"""How the agent stands, for programs: metrics, health, and a call that stops when it does not stand well.

`pulse` is what processes leave behind while they work, `health` judges it; `metrics` and `endpoint` show it to whoever
asks, `alive` calls somebody else.
"""
