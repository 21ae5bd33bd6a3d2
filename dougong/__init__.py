"""dougong: one mixture-of-experts training job across unlike accelerators, with the same bits
wherever it runs."""

__version__ = "0.1.0"
