"""Speed, as ratios to peers that are measured in the same run on the same volume.

Ours runs in this process, the peers as the commands that they are. Contenders take turns, after a warm-up that
does not count; the middle of five rounds is the figure. Inputs come from the page cache; both sides end with
their result on the medium (fsync). Every result is compared with the volume that it should show.
"""
