"""A real file system on a loop device, whose power can be cut.

`xfs_io -x -c shutdown` makes the kernel drop everything that is not on the device: unsynced data, sizes, names.
The order matters: the processes are stopped first, because an fdatasync in flight would otherwise return success while
the file system dies, which cannot happen when the processor loses its power too.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*command: str) -> None:
    """Run a command; its output is part of the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")


class FaultyFilesystem:
    """An ext4 or XFS image mounted at `root`; `cut_power` loses what was not synced and mounts it again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.image = folder / f"{kind}.img"
        self.root = folder / kind

    def create(self) -> None:
        self.root.mkdir()
        with self.image.open("wb") as image:
            image.truncate(640 << 20)
        run(f"mkfs.{self.kind}", "-q", str(self.image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.root))

    def shutdown(self) -> None:
        """Cut the power. Every later call on the file system fails with EIO until it is mounted again."""
        run("xfs_io", "-x", "-c", "shutdown", str(self.root))

    def restore(self) -> None:
        """Bring the power back: unmount, and mount again, which replays the file system's own journal."""
        run("umount", str(self.root))
        self._wait_until_gone()
        self.mount()

    def _wait_until_gone(self, patience: float = 30.0) -> None:
        """Wait until nobody holds the file system. A process that made a mount namespace of its own meanwhile has it
        until that ends, and mounting it again would give the one that was shut down."""
        until = time.monotonic() + patience
        command = ["losetup", "--associated", str(self.image)]
        while subprocess.run(command, capture_output=True, text=True, timeout=60).stdout:
            if time.monotonic() > until:
                raise RuntimeError(
                    f"{self.image} is still mounted in another mount namespace {patience} s after umount"
                )
            time.sleep(0.01)

    def destroy(self) -> None:
        subprocess.run(["umount", "-l", str(self.root)], capture_output=True, timeout=60)
        self.image.unlink(missing_ok=True)


@contextmanager
def faulty_filesystem(kind: str, folder: Path) -> Iterator[FaultyFilesystem]:
    """A mounted file system of this kind (`ext4` or `xfs`); needs root. Removed at the end."""
    if os.geteuid() != 0:
        raise RuntimeError("cutting the power of a file system needs root: it mounts a loop device")
    system = FaultyFilesystem(kind, folder)
    try:
        system.create()
        yield system
    finally:
        system.destroy()
