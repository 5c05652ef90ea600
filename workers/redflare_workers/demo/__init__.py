"""A federated training to watch: agents as processes of their own learn to read handwritten digits."""
