"""Opening models: the demo, torchvision's, and checkpoints that Secateur exported."""
