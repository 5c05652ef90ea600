"""What stands in Redis and nothing else: names, bytes, atomic steps, and the two sides of a link."""
