"""Model files: each format's reader, and the bytes that it reads, which are read once."""
