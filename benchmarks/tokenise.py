"""What a long document costs in memory and time on its way to tokens.

    python benchmarks/tokenise.py [--mebibytes 20] [--kind byte-level unigram llama]

The same characters as one line without an end, and as lines of about eighty characters, each tokenised by a process of
its own that does nothing else. Prints the peak of the first process over that of the second (less what a process takes
that tokenises nothing), and their seconds: 1 means that a long line costs no more than many short ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dougong.data.documents.text import text_files
from dougong.data.token_cache import open_corpus
from dougong.data.tokenizer import open_tokenizer
from tests.data import made_tokenizers

MAKERS = {
    "byte-level": made_tokenizers.byte_level,
    "unigram": made_tokenizers.unigram,
    "llama": made_tokenizers.llama,
}
WORDS = "the brackets join unlike timbers without nails and let a hall ride out earthquakes"
CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=20)
    parser.add_argument("--kind", choices=MAKERS, nargs="+", default=list(MAKERS))
    options = parser.parse_args()
    for kind in options.kind:
        with tempfile.TemporaryDirectory() as folder:
            compare(kind, options.mebibytes << 20, Path(folder))


def compare(kind: str, num_bytes: int, folder: Path) -> None:
    """Print both of one kind of tokenizer."""
    MAKERS[kind]().save(str(folder / "tokenizer.json"))
    empty, lines, line = (folder / name for name in ("empty.txt", "lines.txt", "line.txt"))
    repeats = num_bytes // (len(WORDS) + 1)
    empty.write_text(WORDS)
    lines.write_text(f"{WORDS}\n" * repeats)
    line.write_text(f"{WORDS} " * repeats)
    idle, _ = measure(folder, empty)
    (short, short_s), (long, long_s) = measure(folder, lines), measure(folder, line)
    ratio = (long - idle) / max(1, short - idle)
    print(
        f"{kind}, {num_bytes >> 20} MiB: one line over many lines: peak {ratio:.2f} "
        f"({(long - idle) >> 20} over {(short - idle) >> 20} MiB, beside {idle >> 20} of the process), "
        f"time {long_s / short_s:.2f} ({long_s:.1f} over {short_s:.1f} s)"
    )


def measure(folder: Path, text: Path) -> tuple[int, float]:
    """Peak bytes and seconds of a process that tokenises a text."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(str(folder), str(text), theirs))
    process.start()
    theirs.close()
    found: tuple[int, float] = ours.recv()
    process.join()
    return found


def work(folder: str, text: str, answer: object) -> None:
    start = time.perf_counter()
    open_corpus(text_files(text), open_tokenizer(f"{folder}/tokenizer.json"), Path(folder) / "cache")
    seconds = time.perf_counter() - start
    answer.send((peak_bytes(), seconds))


def peak_bytes() -> int:
    """The most memory this program has held. ru_maxrss would begin at what its parent held when it was forked."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
