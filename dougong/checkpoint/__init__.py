"""The life of a checkpoint, in the order of the modules.

`snapshot`      each worker: `Saver.stage` copies its tensors to staging memory; a thread writes
                them while training goes on, makes them durable and reads them back.
`huggingface`   which file and name a tensor has, so that the folder is a Hugging Face model;
                `parameters` and `conversion` ask transformers, `tensorfile` lays the bytes out.
`part`          what the worker then reports: a `CheckpointPart`, as JSON in one message.
`merge`         the controller: do the parts of all workers make one whole state?
`commit`        it writes the manifest and renames the directory: from now on it is a checkpoint.
`repository`    it prunes old ones, and finds the newest valid one for a resume; `verify` hashes
                every byte, `directories` knows the names, `disk` the system calls.
`reader`        each worker of the next generation: reads what it owns, checked by digest.
`export`        a person: whole tensors in a plain folder.

`manifest` is the file that says all this on disk; `ledger_file` is the run's ledger, kept beside.

A reader who wants two verbs: a save is `Saver.stage` and then, by the controller,
`repository.commit`; a load is `repository.newest_valid` and then `CheckpointReader.read`.
"""
