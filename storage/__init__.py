"""Bytes and records: the image container, capture, consolidation, verification, the catalogue."""
