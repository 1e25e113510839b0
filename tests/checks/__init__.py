"""What rollforward has to show, written once for volumes of any size.

Every check takes a `tests.bed.Bed` and returns its figure in a few words; `tests/acceptance` runs them at full
size, other tests on the small history.
"""
