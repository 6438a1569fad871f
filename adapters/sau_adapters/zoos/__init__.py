"""Where models are: folders, zoos, the hub; and what lies beside them."""
