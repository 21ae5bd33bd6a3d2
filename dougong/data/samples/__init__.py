"""Of a sample's number: its source, its window, and what each of its tokens is. Numbers alone, no
files. Imports no torch.

`blend`   which source a sample belongs to
`order`   which of a source's windows it is
`marks`   what is known of the tokens of a window beside their ids
`image_batch`
          the images that some of them stand for
"""
