"""The catalogue: what the agent knows of folders, images and work, rebuildable from the folders."""
