"""A wall clock of a lab's own: programs that are started with it read the machine's, moved by what
stands in a file. The monotonic clock stays."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from dougong.deadlines import DEADLINES
from dougong.testing.process import LabError

VARIABLE = "DOUGONG_LAB_CLOCK"

# Between the program and the C library: Python, and whatever else asks for the time by name.
_SOURCE = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {{
  static volatile long *seconds;
  if (!seconds) {{
    const char *path = getenv("{VARIABLE}");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) return 0;
    seconds = page;
  }}
  return *seconds;
}}

int clock_gettime(clockid_t which, struct timespec *now) {{
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(which, now);
  if (!status && which == CLOCK_REALTIME) now->tv_sec += ahead();
  return status;
}}

int gettimeofday(struct timeval *now, void *zone) {{
  static int (*real)(struct timeval *, void *);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int status = real(now, zone);
  if (!status) now->tv_sec += ahead();
  return status;
}}

time_t time(time_t *place) {{
  struct timeval now;
  gettimeofday(&now, 0);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}}
"""


class LabClock:
    """One clock, for the commands that are started with its `env`."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the lab, seen by its hosts. LabError where there is no C compiler."""
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("@l", 0))
        library = folder / "clock.so"
        if not library.exists():
            _compile(library)
        self.env = {"LD_PRELOAD": str(library), VARIABLE: str(self._file)}

    def jump(self, seconds: float) -> None:
        """From now on it is so many seconds ahead of the machine's; negative: behind."""
        # In place, and at once: programs have this very file mapped.
        with self._file.open("r+b") as file:
            file.write(struct.pack("@l", round(seconds)))


def _compile(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LabError("a clock of a lab needs a C compiler: as root, `apt-get install gcc`")
    source = library.with_suffix(".c")
    source.write_text(_SOURCE)
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINES.lab_host_s, check=False
    )
    if done.returncode != 0:
        raise LabError(f"`{' '.join(words)}`: {done.stderr}")
