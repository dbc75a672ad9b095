"""Reading files without running anything in them: what they are, and the tensors they hold."""
