"""The child process that compiles DeepSpeed's CPU Adam: python -m dougong.deepspeed.compile_adam.

Its environment says where (`adam_build`)."""

from __future__ import annotations


def main() -> None:
    """Compile it. Whatever goes wrong ends the process with a traceback."""
    # Of processors alone: DeepSpeed's builder for CUDA would ask for a toolkit that nobody needs.
    from deepspeed.ops.op_builder.cpu.cpu_adam import CPUAdamBuilder

    CPUAdamBuilder().load(verbose=True)


if __name__ == "__main__":
    main()
