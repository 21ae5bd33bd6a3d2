"""Whether an accelerator computes, moves and waits as dougong needs it: checks, one small object
each, that name the operator or the method of the device that they judge."""
