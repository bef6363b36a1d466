"""The compiled core: bytes in, bytes out.

Commands, answers, questions and results are MessagePack arrays; `raftwork.storage` builds and reads them. Every call that
waits frees the interpreter, and on the main thread lets signal handlers run. In a forked child every call but `close`
and `pid` raises `ForkedProcess`. What goes wrong is raised as a class of `raftwork.errors`.
"""

from typing import final

__all__ = [
    "Client",
    "Fetcher",
    "Lock",
    "doctor",
    "found_cluster",
    "join_cluster",
    "log_pipe",
    "look_at_member",
    "new_ids",
    "recover",
    "restore",
    "salvage",
    "survey",
    "verify",
    "version",
]

@final
class Client:
    """One process's connection to the state. All calls may come from many threads at once."""

    @staticmethod
    def open(path: str, options: bytes | None = None) -> Client:
        """Open a data directory: own it, or attach to the process that does.

        The directory is made (0700) if it does not exist. When the owner ends, one of the attached processes takes over;
        calls that wait for an answer meanwhile get it from the new owner. The directory of one member of a cluster is only
        owned with the settings of that member (`listen`); without them this waits for a process that has them.

        Args:
            path: the data directory.
            options: a map: `ttl_ms` (500 to 3,600,000, default 15,000: how long the session lives without a sign of
                life), `kind` ("client" or "worker"), `labels` (texts by name), `segment_bytes`, `snapshot_bytes`,
                `max_jobs`, `max_state_bytes` (what the state may hold before this node accepts no more jobs), `health_listen` ("host:port" where probes and metrics are answered), `metrics_open` (a boolean: metrics also to
                other machines), `open_timeout_ms` (how long to wait for an owner that is starting, default 30,000),
                `owner_patience_ms` (how long calls wait for the owner of a member's directory, default 20,000). To be one of several nodes: `listen`, `listen_clients`, `advertise`, `advertise_clients` ("host:port"), `members`
                or `join` (lists of such), `name`, `client_rate`, `max_clients`, `follower_log_bytes`, and `tls_ca`, `tls_certificate`, `tls_key` (files, all three), or `insecure` (a
                boolean: plain connections to other machines).

        Raises:
            DirectoryBusy: another process holds the directory and does not answer; the message names it.
            CorruptData: the stored data is damaged; the message names the command that shows it.
            ForeignDirectory: the directory belongs to something else, or to a newer version, or to one member of a cluster
                whose node does not run; the message has the commands.
            StateDiffers: the state in it is not that of a majority of the members of its cluster.
        """

    @staticmethod
    def connect(options: bytes) -> Client:
        """Connect to a cluster: to any member that answers, by preference its leader. When that one ends, to the next.

        What was answered before is seen at the next one; calls that wait for an answer meanwhile get it from there.

        Args:
            options: a map: `nodes` (a list of "host:port" where members serve clients), and as in `open` the `tls_`
                keys, `insecure`, `ttl_ms`, `kind`, `labels`, `open_timeout_ms` (here: how long to wait for a member that
                answers), and `cluster_id` (the one cluster that may answer; without it the first one that does).

        Raises:
            ClusterUnreachable: no member answered; the message says of each why.
            ForeignDirectory: all of them refused this process.
        """

    @staticmethod
    def memory(options: bytes | None = None) -> Client:
        """Open a state that is in memory only.

        Args:
            options: a map: `clock` ("real", or "manual": time stands still until `advance`), `ttl_ms`, `kind`, `labels`.
        """

    def submit(self, command: bytes, timeout: float | None = None) -> bytes:
        """Write one command and wait for its reply `[0, index, payload]`.

        Raises:
            OutcomeUnknown: no answer within `timeout` seconds, or the node failed; the write may still be applied.
            NotCommitted: it will never be applied.
            Overloaded: queues are full; nothing was accepted.
            UniqueConflict: a job with the same unique key exists.
            InvalidOption: the command is malformed or above a limit; nothing was sent.
        """

    def start(self, command: bytes) -> int:
        """Write one command without waiting. The reply comes with `drain` under the ticket returned."""

    def start_wait(self, job_id: bytes) -> int:
        """Wait for a job without waiting: its detail comes with `drain` under the ticket returned, once it is final."""

    def cancel_ticket(self, ticket: int) -> None:
        """Drop a ticket: its answer will not come. The command behind it may be applied all the same."""

    def completion_fd(self) -> int:
        """A file descriptor that is readable while `drain` would give something. For event loops; never read from it."""

    def drain(self) -> list[tuple[int, bytes | BaseException]]:
        """The answers that came since the last call: for each ticket a reply, a detail, or an exception."""

    def view(
        self,
        question: bytes,
        consistency: str = "session",
        staleness_ms_max: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Ask about the state: `[as_of_index, staleness_ms, payload]`; None: it is not known how old the answer is.

        Args:
            question: see the machine's list of questions.
            consistency: "local", "session" or "linearizable".
            staleness_ms_max: refuse an answer that could be older.
            timeout: seconds; None is 30.

        Raises:
            TooStale: the answer could be older than `staleness_ms_max`.
            TimedOut: nobody answered, or no majority confirmed, in time.
        """

    def wait(self, job_id: bytes, timeout: float | None = None) -> bytes:
        """Wait until a job is final, and return its detail.

        Raises:
            TimedOut: it is not final after `timeout` seconds.
            JobNotFound: no job has this id.
        """

    def session(self) -> int:
        """The id of this client's session; opens it if need be."""

    def health(self) -> bytes:
        """The state of the node for people: a map."""

    def certificate(self) -> tuple[int, str | None] | None:
        """When the own certificate of a client of a cluster expires, in milliseconds since 1970, and from 30 days before on (or
        a third of its life, if that is less) what to do about it. None: it has none, or this process is a node."""

    def metrics(self) -> bytes:
        """What the node counts: the text that Prometheus reads."""

    def serve_health(self, address: str) -> str:
        """Answer `/livez` and `/readyz` over HTTP until the client is closed; for a process that is no node.

        Returns:
            where, with the port that was found if `address` has port 0.

        Raises:
            ConfigError: it cannot listen there.
        """

    def fresh(self, timeout: float | None = None) -> None:
        """Wait until the state at hand has everything that was answered anywhere before this call.

        In a cluster a majority must be heard for that; elsewhere it is so at once.

        Raises:
            TimedOut: no majority within `timeout` seconds.
        """

    def order(self, order: bytes, timeout: float | None = None) -> bytes:
        """Ask something of the cluster: `[1]` who is a member, `[2, node, forced]` remove one, `[3]` let another lead,
        `[4]` take a snapshot, `[5, history]` begin a backup and get its number, `[6, number, piece]` a piece of its file,
        from 1 on and empty behind the last, `[7, number]` forget it.

        Raises:
            NotCommitted: not here or not now; the message says why.
            ForeignDirectory: the certificate of this process may not give orders.
        """

    def role(self) -> str:
        """`owner`, `attached` or `memory`. An attached process may become the owner at any time."""

    def pid(self) -> int:
        """The process that opened this client. A forked child compares it with its own and opens a new one."""

    def advance(self, ms: int) -> None:
        """Move a manual clock forward, stopping at every moment at which something is due."""

    def fetcher(self, options: bytes) -> Fetcher:
        """Open a fetcher with a worker session of its own.

        Args:
            options: a map: `queues` (`[[name, weight], ...]`), `strict` (queues in the order given, not by weight),
                `functions` (names; other jobs are left alone), `prefetch` (0: claim nothing ahead of a free thread;
                else how much is claimed ahead follows from how fast jobs finish, up to 256 or this number if it is
                larger), `labels`.
        """

    def lock(self, name: str, ttl_ms: int | None = None, kind: str = "lock", permits: int = 1) -> Lock:
        """A lock that is not asked for yet. It will belong to a session that exists for locks of this time to live.

        Args:
            name: 1 to 255 bytes without control characters.
            ttl_ms: as in `open`; None: as that of this client.
            kind: `lock`, `semaphore`, `read` or `write`.
            permits: of a semaphore, 1 to 1,000; of others 1.
        """

    def close(self, timeout: float | None = None) -> None:
        """End the session and, as the owner, the node. A second call does nothing; a forked child's call neither."""

@final
class Fetcher:
    """Takes jobs for one worker and brings their results back, batched."""

    def next(self, timeout: float | None = None) -> bytes | None:
        """Wait for a claimed job. `None`: nothing within `timeout` seconds, or the fetcher is paused.

        Raises:
            SessionExpired: the session is lost and with it every lease. Stop the jobs; open a new fetcher.
        """

    def next_many(self, max: int, timeout: float | None = None) -> list[bytes]:
        """As many claimed jobs as are at hand, up to `max`; waits for the first one."""

    def finish(self, result: bytes) -> None:
        """Leave the result of a job, `[id, token, outcome, ...]`. It is stored soon, with others; see `flush`."""

    def finish_and_next(self, result: bytes, timeout: float | None = None) -> bytes | None:
        """`finish` and `next` in one call. Does not free the interpreter when a job is at hand."""

    def progress(self, item: bytes) -> None:
        """Leave a note about a running job, `[id, token, progress, state]`."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every result left so far is stored."""

    def events(self, timeout: float | None = None) -> list[tuple[str, bytes, int]]:
        """What happened to running jobs: `("cancel" | "lost" | "lines", job, token)` or `("session_lost", b"", 0)`.

        Waits for the first one. An empty list: nothing within `timeout` seconds.

        Raises:
            RaftworkError: the fetcher has ended, and this is why. All events were told before.
        """

    def tell_lines(self, job_id: bytes, token: int, lines: list[str] | None, first: int = 0) -> None:
        """Answer `lines`: what the job logged, of which the first line has the number `first`. None: it does not run."""

    def fd(self) -> int:
        """A file descriptor that is readable while `next_many` would give something, or raise. Never read from it."""

    def pause(self) -> None:
        """Claim nothing more, and give back what was claimed and not taken. Results still go through."""

    def resume(self) -> None:
        """Claim again after `pause`."""

    def fenced(self) -> bool:
        """Whether the session is lost, or nothing confirmed it for two thirds of its time to live."""

    def session(self) -> int:
        """The id of the worker session that holds the leases."""

    def close(self, timeout: float | None = None) -> None:
        """Store what is left and end the session. Jobs still running go back without spending an attempt."""

@final
class Lock:
    """One lock by its name, and at most one holding of it at a time. Two objects are two owners."""

    def acquire(self, waits: bool, timeout: float | None = None) -> int:
        """Hold the lock, and return its fencing token. `waits` false: one try.

        Raises:
            TimedOut: somebody else held it all the time; it is not waited for any more.
            SessionExpired: the session was lost meanwhile. The next try opens another.
            LockHeld: this object holds it, or waits for it.
            LockMismatch: it is held as another kind, or with another number of permits.
        """

    def start_acquire(self, waits: bool) -> int:
        """As `acquire` without waiting: `[token or nil]` comes with `Client.drain` under the ticket returned."""

    def give_up(self) -> None:
        """Want the lock no more, whether or not it was given meanwhile. Harmless when nothing is wanted."""

    def release(self, timeout: float | None = None) -> None:
        """Give the lock back.

        Raises:
            LockLost: it was lost before.
            LockNotHeld: this object does not hold it.
        """

    def start_release(self) -> int:
        """As `release` without waiting: the answer comes with `Client.drain` under the ticket returned."""

    def standing(self) -> tuple[int, bool] | None:
        """The token and whether the lock is lost. None: it is not held, or was released."""

    def wait_lost(self, timeout: float | None = None) -> bool:
        """Wait until the lock is lost. False: not within `timeout` seconds, or it was released."""

    def start_wait_lost(self) -> int:
        """A ticket whose answer comes when the lock is lost, at once if it is not held."""

def doctor(path: str) -> bytes:
    """What is in a data directory, as a MessagePack map. Changes nothing; a node may run meanwhile.

    Keys: `directory`, `healthy`, `problems` and `losses` (sentences), `in_use_by` (nil if nobody runs on it), `identity`
    (`cluster`, `group`, `node`, `created_ms`, or nil), `snapshots` (each `file`, `index`, `term`, `bytes`, `whole`,
    `damage`), `log`, `start` (`possible`, `reason`; nil while in use), `archive` (`present`, `watermark`, `records`,
    `bytes`, `lost`, `damage`, `unknown`; nil while in use), `salvage` (what it would do: `keeps`, `loses`,
    `needs_accept_loss`, `members_unknown`; nil if it starts as it is, or is not salvaged), `set_aside` (files in
    `quarantine/`), `others` (the other members that it names, in words), `way_out` (what to do, in sentences, with one that
    names others and cannot start: it is not salvaged).
    """

def salvage(path: str, accept_loss: bool = False) -> bytes:
    """Make a damaged directory start again with what is left; what is taken away goes to `quarantine/`.

    Keys of the answer: `set_aside` (each `from`, `to`), and `data`, which is what `doctor` then answers. DirectoryBusy
    while a node runs. CorruptData, saying what would be lost, if that is the state itself and `accept_loss` is false.
    ForeignDirectory if it is one member of several, with what to do instead.
    """

def log_pipe() -> tuple[int, int]:
    """The two ends of the pipe, for reading and writing, into which the core's log goes from the first call on.

    A line is `LEVEL TARGET MESSAGE`, with the levels ERROR, WARN and INFO. Lines that find no room are dropped.
    """

def found_cluster(options: bytes) -> bytes:
    """Make the authority of a new cluster and the certificate of its first node, as files.

    Args:
        options: a map: `dir` (made, for its owner's eyes only), and `names` of the host, for people who read it.

    Returns:
        A map: `cluster`, `token` (it may do everything once the first node has begun), and its SHA-256, `digest`.

    Raises:
        InvalidOption: the directory is open to others, or has an authority already.
        DiskError: it cannot be written.
    """

def join_cluster(options: bytes) -> bytes:
    """Make a key and get its certificate with an invitation, as files.

    Args:
        options: a map: `invitation`, and as for `found_cluster`.

    Returns:
        A map: `role`, `cluster`, and where its `members` and their `clients` ports listen.

    Raises:
        InvalidOption: the invitation cannot be read, or nothing can be signed where it leads.
        AccessDenied: it is used, or has expired.
        ForeignDirectory: whoever answers is not the cluster that it names; nothing was shown.
        ClusterUnreachable: nobody answers.
    """

def look_at_member(options: bytes) -> bytes:
    """Ask one member of a cluster how it is: that one, whether or not it leads or has a majority behind it.

    Args:
        options: a map: `node` ("host:port" where it serves clients), as in `Client.connect` the `tls_` keys,
            `token` and `insecure`, `timeout_ms` (default 3,000; connecting may take up to 5 s besides).

    Returns:
        `[health, members]`: the map of `Client.health`, and `[[node, name, address, address for clients], ...]`.

    Raises:
        ClusterUnreachable: nobody listens there.
        TimedOut: it does not answer.
        ForeignDirectory: it refuses this process.
    """

def new_ids(n: int) -> list[bytes]:
    """New job ids of 16 bytes: UUID version 7, each greater than every earlier one of this process."""

def verify(path: str) -> bytes:
    """Read a backup in full and say what it holds.

    Keys of the answer: `file`, `bytes`, `manifest` (`cluster`, `group`, `node`, `index`, `term`, `clock_ms`, `made_ms`,
    `snapshot_bytes`, `history`, `program`), `jobs` (in memory), `history` (finished jobs), `sessions`, `digest`.

    Raises:
        CorruptData: it is not what was written.
        ForeignDirectory: it is no backup, or one of a newer version.
    """

def restore(file: str, path: str, cluster: str | None = None) -> bytes:
    """Make a new cluster of one member from a backup, in a new or empty directory.

    Args:
        file: the backup.
        path: the directory.
        cluster: the id of the new cluster, 32 hexadecimal digits with or without hyphens. Default: a new one.

    Returns:
        A map: `directory`, `cluster`, `node`, `index`, `jobs`, and `origin` as in `Client.health`.

    Raises:
        CorruptData: the backup is damaged.
        ForeignDirectory: the directory is not empty.
        DirectoryBusy: a process runs on it.
    """

def survey(path: str) -> bytes:
    """How far a stopped member's own disk reaches: `directory`, `cluster`, `node`, `index`, `term`, `jobs`, `sessions`,
    `suspect_upto` (nil, or up to where answered writes may be missing), `given_up` (the other members, in words).

    Raises:
        DirectoryBusy: a process runs on it.
        ForeignDirectory: it is no data directory.
        CorruptData: it cannot start as it is.
    """

def recover(path: str, cluster: str | None = None) -> bytes:
    """Make the stopped member in this directory the only one of a new cluster; answers as `restore`, fails as `survey`.

    What the directory held before is kept in `quarantine/before`.
    """

def version() -> str:
    """The version of the package."""
