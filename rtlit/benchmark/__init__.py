"""How fast rtlit is on this machine: a made scene, checked and timed, and what to say about it."""
