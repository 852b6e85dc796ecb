"""Real environments, and the rules that end their episodes."""
