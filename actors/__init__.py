"""Thin job shells round planner and executor: broker, middleware, retries."""
