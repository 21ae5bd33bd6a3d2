"""From the job's `data` section to the ids that a lane reads. Imports no torch.

`documents`                 texts, from files or from a Hugging Face dataset
`tokenizer`, `token_cache`  documents to ids, once, kept as token files
`chats`                     chats to sequences, with marks of what is learnt, kept as such files
`token_files`, `megatron`   token files of two formats
`document_starts`           where the documents of a stream begin
`sources`, `source_windows`
                            what a job names, opened, and cut into windows
`image_tokens`              what texts beside chats with images must not hold
`samples`                   which window a sample is: numbers alone
`show`                      what a run reads, as text for a person
`windows`                   which ids a lane reads at a step: a pure function of the job
"""
