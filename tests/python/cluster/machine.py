"""What a process is told by its machine: the time, and whether its disk syncs. See `shim.c`."""

import mmap
import struct
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
JUMPS_S = {"+1h": HOUR_S, "-1h": -HOUR_S, "+1d": DAY_S, "-1d": -DAY_S}
YEARS_S = {"1970": 0, "2100": 4_102_444_800}


def build(folder: Path) -> Path:
    """Compile the shim; gives the library."""
    library = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"the shim does not compile:\n{done.stderr}")
    return library


class Page:
    """The page that one process's shim reads. It outlives the process: the next one of this machine reads it too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(4_096))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4_096)

    def environment(self, library: Path) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "LAB_PAGE": str(self.path)}

    def jump(self, where: str) -> None:
        """Set the wall clock: by `+1h`, `-1h`, `+1d`, `-1d` against the right time, or to `1970` or `2100`."""
        seconds = JUMPS_S[where] if where in JUMPS_S else YEARS_S[where] - int(time.time())
        struct.pack_into("<q", self._page, 0, seconds * 1_000_000_000)

    def set_right(self) -> None:
        struct.pack_into("<q", self._page, 0, 0)

    def slow_syncs(self, ms: int) -> None:
        """Each sync takes so much longer."""
        struct.pack_into("<i", self._page, 8, ms)

    def fail_syncs(self, count: int, of: str) -> None:
        """So many syncs fail from now on, of files with this in their path."""
        struct.pack_into("<64s", self._page, 32, of.encode())
        struct.pack_into("<q", self._page, 96, 0)
        struct.pack_into("<i", self._page, 12, count)

    @property
    def failed(self) -> int:
        return int(struct.unpack_from("<q", self._page, 16)[0])

    @property
    def slowed(self) -> int:
        return int(struct.unpack_from("<q", self._page, 24)[0])

    @property
    def again(self) -> int:
        """Syncs of the file whose sync failed last, asked for by the process that was told of it."""
        return int(struct.unpack_from("<q", self._page, 96)[0])

    @property
    def misled(self) -> int:
        """How often a wrong time was told."""
        return int(struct.unpack_from("<q", self._page, 104)[0])

    def close(self) -> None:
        self._page.close()
