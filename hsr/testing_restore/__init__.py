"""Testing a restore: the file systems of a point are checked, and it is started, without writing to anything."""
