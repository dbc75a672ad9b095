"""Qt item models over immutable snapshots."""
