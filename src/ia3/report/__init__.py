"""What a person gets to see of a run: pictures of it, and the model card of its adapter."""
