"""What devices say of their own health: one interface, one file for each vendor."""
