"""Where an exported file comes from: its sidecars, and its signature."""
