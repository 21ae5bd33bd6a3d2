"""A checkpoint's adapters: merged into the model that is exported, or as a folder of peft."""
