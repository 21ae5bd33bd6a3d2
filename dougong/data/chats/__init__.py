"""Chats as sequences of tokens, with marks of what is learnt. Imports no torch.

`rows`, `parts`      files of chats; what a message holds
`template`           a chat to ids, by the tokenizer's chat template, and which of them are learnt
`image_files`, `image_processor`, `image_form`, `images`
                     images to pixels, to tokens, and back from the cache
`packing`, `store`   chats to sequences, kept as token files
"""
