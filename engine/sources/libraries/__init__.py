"""The libraries whose models can be opened by name, and their published weights."""
