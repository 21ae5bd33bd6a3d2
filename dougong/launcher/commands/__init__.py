"""The commands, a module for each group. Every module has `register(app)` and imports nothing heavy."""
