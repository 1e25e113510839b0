"""Starting a machine on a point in time: qemu reads the point from its images, and writes to an overlay."""
