"""The networks, and how their arithmetic is done."""
