"""Virtual disks that are written at random, stop and go on at any moment, and are no disk until finalized."""
