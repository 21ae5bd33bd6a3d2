"""Documents of text, in a fixed order: from files, or from a Hugging Face dataset. Imports no
torch."""
