"""Much work of one kind, done by several processes: on this machine, or on a cluster."""
