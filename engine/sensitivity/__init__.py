"""What each layer can bear: settings tried on the training split, layer by layer."""
