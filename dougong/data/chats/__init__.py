"""Chats as sequences of tokens, with marks of what is learnt. Imports no torch."""
