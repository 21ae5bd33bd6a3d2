"""A transformers model, cut at its experts. No family is known by name in this room.

`build`          the family's configuration, the model on meta, memory for its dense tensors
`configuration`  that of a Hugging Face folder, without its code; `folder`: is the folder whole
`initial`        the family's own initial values, with random numbers that depend on names alone
`weights`        or values from a folder; `patterns`: many names of tensors in few words
`companions`     the small files beside them; `older_names`: a configuration for older readers
`sites`          where the experts are, and one of them by itself
`cut`            at these sites the forward pauses
`ties`           among equal scores every device chooses alike
`routers`        how the experts are chosen, found by `router_probe`, for balancing
`inventory`      all of this without memory, for the planner

`transformers_internals` is the fence around transformers' private names.
"""
