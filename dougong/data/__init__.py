"""From the job's `data` section to the ids that a lane reads. Imports no torch.

`text`, `dataset`           documents, from files or from a Hugging Face dataset
`tokenizer`, `token_cache`  documents to ids, once, kept as token files
`chats`                     chats to sequences, with marks of what is learnt, kept as such files
`token_files`, `megatron`   token files of two formats
`windows`                   which ids a lane reads at a step: a pure function of the job
"""
