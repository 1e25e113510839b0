"""HeadStart Restore: writing a point in time onto a disk."""
