"""Pure decisions over frozen values: points and spans, names, calendar, retirement, errors.

Nothing in this package reads a file, a clock or a database: what it decides depends on its arguments alone.
"""
