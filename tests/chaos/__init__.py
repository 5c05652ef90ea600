"""The soak: many tasks while everything around them breaks."""
