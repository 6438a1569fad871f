"""Networks by name, and names by the tensors of a file."""
