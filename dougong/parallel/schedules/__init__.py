"""Schedules are data: what every worker of a step does, in which order, as a list that can be read,
proved and timed.

Read in this order: `operation` (the words), `order` (from an order of segments to a worker's list),
`serial`, `colocated`, `zebra`, `af_pipe` (the schedules), `registry` (their names), `walk` and
`check` (the proof before a run), `simulate` (the time that a step would take), `gantt` (its
picture). Nothing here imports torch.

A schedule never changes a bit of the result: gradients are added in the order of micro-batches, and
`check` refuses a list in which a worker would meet them in another one.
"""
