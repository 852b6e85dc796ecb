"""Real environments, and what is known of the robots in them."""
