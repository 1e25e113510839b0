"""Disks that are kept rolled forward: a cursor beside each, spans applied one after the other, finalized on demand."""
