"""Making a disk of a volume: partition tables round it, and the few bytes in it that must say where it lies."""
