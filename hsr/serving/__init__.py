"""Serving a point in time: read at random straight from its images, over NBD or as a file."""
