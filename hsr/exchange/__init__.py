"""Disk images of other programs: read for importing, written for exporting, both by qemu's tools."""
