"""A process that opens the storage and says which of the job ids on its standard input it does not know.

python -m faults.check < ids
"""

import sys
import uuid

from faults.shop import app
from raftwork import JobNotFound


def is_known(identity: str) -> bool:
    try:
        app.job(uuid.UUID(identity)).info()
    except JobNotFound:
        return False
    return True


def main() -> None:
    with app:
        lost = [identity for identity in sys.stdin.read().split() if not is_known(identity)]
    print(f"lost {len(lost)} {' '.join(lost[:5])}".strip())


if __name__ == "__main__":
    main()
