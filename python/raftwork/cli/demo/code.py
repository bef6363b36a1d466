"""The first program of a user: the one of the README, word for word."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CODE", "write_code"]

CODE = """\
from raftwork import Raftwork

app = Raftwork("shop")  # ./.raftwork when nothing else is said


@app.task(retry=5)
def send_welcome(user_id: int, *, template: str = "default") -> str:
    return f"sent {template} to {user_id}"


if __name__ == "__main__":
    with app.running(workers=True):  # or in its own process: raftwork worker app:app
        job = send_welcome.enqueue(7, template="vip")  # on disk when this returns
        print(job.result(timeout=30))
"""


def write_code(directory: Path) -> str:
    """Write `app.py`, unless there is something of that name; answers what to do with it."""
    path = directory / "app.py"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(CODE)
    except FileExistsError:
        if path.is_file() and path.read_text(encoding="utf-8") == CODE:
            return "app.py is here already. Run: python app.py"
        return "There is another app.py here, so nothing was written."
    except OSError as error:
        return f"app.py was not written: {error.strerror}."
    return "Written to app.py. Run: python app.py"
