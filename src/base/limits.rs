//! Every bound of the system in one place, each with its reason. Bounds that depend on each other are asserted below.

/// Largest encoded arguments of one job. Larger data belongs in a blob store; the job carries its address.
pub const ARGS_BYTES_MAX: usize = 256 << 10;
/// Largest encoded result of one job.
pub const RESULT_BYTES_MAX: usize = 256 << 10;
/// Largest stored error (type, message, traceback) of one attempt; the edge truncates, the core refuses.
pub const ERROR_BYTES_MAX: usize = 64 << 10;
/// Largest state that a job saves for its next attempt, and largest progress note.
pub const STATE_BYTES_MAX: usize = 64 << 10;
/// Errors kept with a job; older attempts keep their times and outcome only.
pub const ATTEMPTS_KEPT_MAX: usize = 10;
/// Jobs in one command: bounds the time that one entry takes to apply (about 2 microseconds a job).
pub const BATCH_JOBS_MAX: usize = 1_000;
/// Bytes of an `Enqueue` whose jobs are announced before it is committed: one that is larger is not worth decoding twice, as
/// its jobs wait for each other longer than for a claim.
pub const ANNOUNCED_BYTES_MAX: usize = 16 << 10;
/// Encoded bytes of one command, which is one log entry. Four mebibytes are written and synced in about 2 ms.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Bytes of a queue, function, tag or unique name.
pub const NAME_BYTES_MAX: usize = 255;
/// Tags of one job.
pub const TAGS_MAX: usize = 32;
/// Queues or functions named in one claim.
pub const CLAIM_NAMES_MAX: usize = 1_024;
/// Priorities run from minus this to plus this, as in Django.
pub const PRIORITY_MAX: i64 = 100;
/// Depth of nested values that a decoder follows.
pub const DEPTH_MAX: usize = 32;
/// Items of one array or map that a decoder accepts.
pub const ITEMS_MAX: usize = 65_536;
/// Jobs in memory, those that finished and are not archived yet included. About 600 bytes each. All versions that share a
/// log must agree on it; a node may be told less.
pub const JOBS_MAX: usize = 10_000_000;
/// Different job specifications (function and options) alive at once.
pub const SPECS_MAX: usize = 100_000;
/// Open sessions.
pub const SESSIONS_MAX: usize = 10_000;
/// Of these, sessions of one token or one client's certificate.
pub const SESSIONS_OF_ONE_MAX: usize = SESSIONS_MAX / 4;
/// Leases that one session holds at a time: ending a session must not stall the group.
pub const LEASES_MAX: usize = 10_000;
/// Holders of locks, of all locks together, beyond which no more are asked for. Lines go on: when writers make room for many
/// readers who wait already, there are more for a while, at most `LOCK_WAITERS_MAX`.
pub const LOCKS_MAX: usize = 10_000;
/// Permits of one semaphore, and readers of one lock at a time: as many as one command may hand over.
pub const LOCK_PERMITS_MAX: u64 = 1_000;
/// Owners that wait for locks, of all locks together. About 150 bytes each.
pub const LOCK_WAITERS_MAX: usize = 100_000;
/// Locks that one session holds or waits for: ending a session must not stall the group.
pub const LOCKS_OF_SESSION_MAX: usize = 10_000;
/// Recurring schedules. About 600 bytes each, without arguments.
pub const SCHEDULES_MAX: usize = 100_000;
/// Bytes of the name of a schedule.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 200;
/// What schedulers keep with a schedule: its cron text, time zone and the like.
pub const DEFINITION_BYTES_MAX: usize = 4_096;
/// Parents of one job. A thousand of such jobs would be ten million edges, about 90 bytes each.
pub const PARENTS_MAX: usize = 10_000;
/// Jobs that come back from the archive with the one that they were cancelled for: its record names so many.
pub const FLOW_JOBS_MAX: usize = 10_000;
/// Bytes of results that a job gets from its parents, together: two of the largest.
pub const OUTPUTS_BYTES_MAX: usize = 2 * RESULT_BYTES_MAX;
/// Batches, those included that finished and are remembered. About 400 bytes each.
pub const BATCHES_MAX: usize = 100_000;
/// Batches inside of each other.
pub const BATCH_DEPTH_MAX: usize = 16;
/// How long a finished batch is remembered: as long as failed jobs are kept, whose requeueing begins it again.
pub const BATCH_KEEP_MS: u64 = 14 * 24 * 3_600_000;
/// Limits of one job: each costs a step when it waits, starts and ends.
pub const JOB_LIMITS_MAX: usize = 4;
/// Jobs at once, or starts in a window.
pub const LIMIT_MAX: u64 = 1_000_000;
/// The same of a window that slides, whose starts are all remembered.
pub const LIMIT_SLIDING_MAX: u64 = 1_000;
/// Longest window of a rate, a year.
pub const LIMIT_WINDOW_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Keys of limits in use at once, beyond which new jobs with other keys are refused. About 700 bytes each.
pub const LIMITERS_MAX: usize = 1_000_000;
/// A rate that has no room opens again at a multiple of this, so that a high one does not need a command for each start.
pub const RATE_OPENS_MS: u64 = 10;
/// Answers kept for one session until it acknowledges them; a client with more in flight is refused.
pub const REPLIES_MAX: usize = 4_096;
/// Bytes of answers kept for one session; a client that does not acknowledge is refused beyond it.
pub const REPLY_BYTES_MAX: usize = 32 << 20;
/// Bytes of jobs that one claim hands out, unless a single job is larger: its answer must fit one frame.
pub const CLAIM_BYTES_MAX: usize = 4 << 20;
/// Runs of one job that its history remembers; older ones are dropped.
pub const HISTORY_MAX: usize = 50;
/// Groups of errors that are remembered, those that were seen last, and the bytes of a fingerprint.
pub const ERROR_GROUPS_MAX: usize = 1_000;
pub const FINGERPRINT_BYTES_MAX: usize = 64;
/// Queues ever used. Each keeps its totals for good, so their number is bounded.
pub const QUEUES_MAX: usize = 10_000;
/// Functions ever used, bounded for the same reason.
pub const FUNCTIONS_MAX: usize = 10_000;
/// Weight of a queue in one claim. The sums of 1,024 of them stay far inside 64 bits.
pub const WEIGHT_MAX: u64 = 1_000_000;
/// Options of a function that only the worker side reads (retry policy, executor).
pub const META_BYTES_MAX: usize = 16 << 10;
/// Bytes of a reason: why a queue was paused, why a job was cancelled.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Labels of one session, each a name and a text.
pub const LABELS_MAX: usize = 32;
/// What the state machine may hold by its own estimate; beyond it enqueueing is refused, everything else goes on. A node may
/// be told less.
pub const MACHINE_BYTES_MAX: u64 = 8 << 30;
/// Items that one `Tick` or `Evict` may touch, so that upkeep never stalls the group.
pub const UPKEEP_ITEMS_MAX: usize = 1_000;
/// Finished jobs that are worth a round of the archive at once: fewer wait a little, because a round costs syncs.
pub const ARCHIVE_ROUND_JOBS: usize = 1_000;
/// Finished jobs read under the machine's lock at once for the archive, about half a millisecond.
pub const ARCHIVE_BATCH_JOBS: usize = 500;
/// Bytes of records at which such a batch ends, so that large results hold the lock no longer than small ones. One record
/// of the largest size may come on top.
pub const ARCHIVE_BATCH_BYTES: usize = 1 << 20;
/// Archived records that one step of expiry removes, about ten milliseconds. More than a round adds: history must not grow
/// while jobs finish as fast as they can be archived.
pub const ARCHIVE_EXPIRE_RECORDS: usize = 2_000;
/// Requests waiting in a node's inbox. Beyond it `submit` waits, then answers `Overloaded`.
pub const INBOX_REQUESTS_MAX: usize = 65_536;
/// Bytes waiting in a node's inbox.
pub const INBOX_BYTES_MAX: usize = 64 << 20;
/// Requests that one attached process may have outstanding, and the same of questions about the state.
pub const ATTACHED_REQUESTS_MAX: usize = 4_096;
/// Orders of an operator that one attached process may have outstanding. Each takes a thread.
pub const ORDERS_MAX: usize = 16;
/// Watches of one attached process: one for each lane of each worker in it, and one for its locks.
pub const WATCHES_MAX: usize = 4_096;
/// Bytes of the names of queues and functions that the watches of one process wait for jobs of.
pub const ASKED_BYTES_MAX: usize = 16 << 20;
/// Waits for the ends of jobs of one process.
pub const WAITS_MAX: usize = 65_536;
/// Signs of life of one session that are further apart than this count against no rate. Those of a healthy one are: the
/// shortest time to live is half a second.
pub const BEAT_FREE_MS: u64 = 100;
/// Processes attached to one node over its Unix socket.
pub const ATTACHED_PROCESSES_MAX: usize = 1_024;
/// Bytes that may wait for a peer that reads slowly. Its connection ends beyond.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// Connections from other machines at one port, unless a setting says otherwise. Each takes two threads.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Of these, connections that have not shown yet who they are: a flood of them must leave room and memory to others.
pub const STRANGERS_MAX: usize = 64;
/// The same for one address.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 16;
/// A stranger keeps its place at least this long, then it makes room for a newer one when there is none. An honest handshake
/// takes a few round trips.
pub const STRANGER_CHANCE_MS: u64 = 500;
/// A TLS handshake, from the connection on.
pub const HANDSHAKE_MS: u64 = 5_000;
/// The first frame, from the handshake on.
pub const FIRST_FRAME_MS: u64 = 5_000;
/// Largest first frame: what is read of somebody unknown.
pub const FIRST_FRAME_BYTES_MAX: usize = 4 << 10;
/// One try to reach an address.
pub const CONNECT_MS: u64 = 2_000;
/// A look-up of a host's name, for one who has no deadline of its own. Where the first name server is dead the system needs 5 s.
pub const LOOK_UP_MS: u64 = 20_000;
/// Pauses between tries to connect: they double from the first to the second. An election needs its links soon.
pub const RECONNECT_MS_MIN: u64 = 20;
pub const RECONNECT_MS_MAX: u64 = 1_000;
/// Pause after a certificate was refused: the next try needs another one.
pub const CERTIFICATE_PAUSE_MS: u64 = 5_000;
/// A connection whose certificate expired ends within this time, however the clock was set meanwhile.
pub const CERTIFICATE_LOOK_MS: u64 = 30_000;
/// What a client was not allowed to do, and must ask for until it is, is asked again after so long: its rights change rarely.
pub const DENIED_PAUSE_MS: u64 = 30_000;
/// When the system has no socket or thread for one more: so long until the next try.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Connections at once to the port for probes and metrics. Each asks one thing and goes.
pub const HEALTH_CONNECTIONS_MAX: usize = 32;
/// Bytes of a request there, and the time for it, answer included.
pub const HEALTH_HEAD_BYTES_MAX: usize = 4 << 10;
pub const HEALTH_MS: u64 = 5_000;
/// A node is ready for traffic while it has applied all but so many committed entries: about a second of work.
pub const READY_LAG_ENTRIES: u64 = 20_000;
/// And while its state is certainly not older than this: the default bound of local reads.
pub const READY_STALENESS_MS: u64 = 2_000;
/// Before a certificate expires, health gives the alarm for so long.
pub const CERTIFICATE_ALARM_MS: u64 = 14 * 24 * 3_600_000;
/// Before the certificate of a client expires, it says so for this long, or for a third of its life if that is less.
pub const CERTIFICATE_WARNING_MS: u64 = 30 * 24 * 3_600_000;
/// A peer whose machine confirms nothing for this long has vanished.
pub const SILENCE_MS: u64 = 5_000;
/// A connection over which nothing comes for this long is ended by the side that accepted it: its place is for others. What is
/// cut off by mistake connects again.
pub const IDLE_MS: u64 = 300_000;
/// A client that said nothing for this long asks whether the node lives: it keeps its place, also if one such question is lost.
pub const IDLE_WORD_MS: u64 = 100_000;
const _: () = assert!(2 * IDLE_WORD_MS + HANG_MS < IDLE_MS);
/// A node that a client heard nothing from for this long, while it waits for an answer, is asked something that costs it
/// nothing.
pub const QUIET_MS: u64 = 1_000;
/// The same for a client that waits for events only, as an idle worker does: more than half of what passes between two signs
/// of life, which are answered too. So it asks once between them.
pub const QUIET_WATCHING_MS: u64 = 3_000;
/// One that does not answer that for this long hangs, though its machine still confirms: another is asked. Twice is
/// below the time after which a worker of a usual session takes its leases for lost.
pub const HANG_MS: u64 = 2_000;
const _: () = assert!(QUIET_WATCHING_MS + QUIET_MS + 2 * HANG_MS < SESSION_TTL_MS * 2 / 3);
const _: () = assert!(2 * QUIET_WATCHING_MS > SESSION_TTL_MS / 3);
/// Bytes that may wait for a member: an append of the largest size four times over. Frames beyond are dropped.
pub const MEMBER_BYTES_MAX: usize = 32 << 20;
/// Bytes of entries that one group commit carries, unless a single entry is larger.
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// One segment file of the write-ahead log.
pub const SEGMENT_BYTES: usize = 32 << 20;
/// Bytes of log since the last snapshot that trigger the next one.
pub const LOG_BYTES_SNAPSHOT: u64 = 64 << 20;
/// Bytes of log that are never exceeded: writers wait for the snapshot instead.
pub const LOG_BYTES_MAX: u64 = 256 << 20;
/// Bytes of entries that a member keeps in memory for others that fell behind, so that they need no snapshot; unless a setting
/// says otherwise.
pub const LOG_BYTES_FOR_PEERS: usize = 16 << 20;
/// Bytes of a snapshot that one member sends to another within a second: a part of the network, and less than a disk writes.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 64 << 20;
/// One chunk of a snapshot file.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Bytes of the state or of finished jobs in one block of a backup: a reader asks for one after the other.
pub const BACKUP_BLOCK_BYTES: usize = 1 << 20;
/// Backups that one node makes at a time. Each holds a snapshot file open.
pub const BACKUPS_MAX: usize = 4;
/// Jobs of one page of the copy-on-write job table.
pub const PAGE_JOBS: usize = 256;
/// A session that is not heard of for this long is expired (default).
pub const SESSION_TTL_MS: u64 = 15_000;
/// Longest time to live that a session may ask for.
pub const SESSION_TTL_MS_MAX: u64 = 24 * 3_600_000;
/// Members of a cluster, voters and learners. More than seven voters make every write slower; this bounds lists.
pub const MEMBERS_MAX: usize = 64;
/// Requests a second of one client at one node, unless a setting says otherwise. More than one process can ask for; it
/// bounds what a client with a mistake in it costs the others.
pub const CLIENT_RATE: u64 = 50_000;
/// Tokens of clients. All of them are looked at a few times a second.
pub const TOKENS_MAX: usize = 1_000;
/// What one token allows.
pub const CAPABILITIES_MAX: usize = 64;
/// Invitations that nobody has used yet; each lives a quarter of an hour.
pub const INVITATIONS_MAX: usize = 64;
/// Bytes of log lines of a running job in one answer; the newest are kept.
pub const LINES_BYTES_MAX: usize = 256 << 10;
/// Different questions for log lines that one node has on the way. Each takes a thread for as long as its worker needs.
pub const LINES_ASKS_MAX: usize = 64;
/// Those who wait for the answers, and asks of workers that wait.
pub const LINES_CALLERS_MAX: usize = 1_024;
/// Asks for log lines that one worker has not answered; beyond it the oldest are dropped.
pub const LINES_UNTOLD_MAX: usize = 256;
/// Remembered acts about the cluster itself. Older ones are dropped.
pub const ACTS_MAX: usize = 1_000;
/// Bytes of an address: the longest name of a host (253), a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 259;
/// Entries between two marks that members compare. Often enough that a difference shows within a second under load, and so
/// seldom that making a mark costs nothing; the runs of the simulator are short.
pub const DIGEST_ENTRIES: u64 = if cfg!(feature = "sim") { 64 } else { 1_024 };
/// Largest frame between two processes: one command or one answer and its header.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(COMMAND_BYTES_MAX + (64 << 10) < FRAME_BYTES_MAX);
const _: () = assert!(ARGS_BYTES_MAX + (64 << 10) < COMMAND_BYTES_MAX);
const _: () = assert!(CLAIM_BYTES_MAX + JOB_BYTES_MAX + (512 << 10) < FRAME_BYTES_MAX);
/// What a claim tells of one job, but for its names and the positions of outputs.
const JOB_BYTES_MAX: usize = ARGS_BYTES_MAX + STATE_BYTES_MAX + META_BYTES_MAX + OUTPUTS_BYTES_MAX;
const _: () = assert!(CLAIM_BYTES_MAX * 2 <= REPLY_BYTES_MAX);
const _: () = assert!(ARCHIVE_EXPIRE_RECORDS >= 2 * ARCHIVE_ROUND_JOBS && ARCHIVE_BATCH_JOBS <= ARCHIVE_ROUND_JOBS);
const _: () = assert!(COMMAND_BYTES_MAX * 2 <= SEGMENT_BYTES);
const _: () = assert!(LOG_BYTES_SNAPSHOT < LOG_BYTES_MAX);
const _: () = assert!(STRANGERS_PER_ADDRESS_MAX <= STRANGERS_MAX && STRANGERS_MAX < CONNECTIONS_MAX);
const _: () = assert!(STRANGER_CHANCE_MS < HANDSHAKE_MS && RECONNECT_MS_MIN < RECONNECT_MS_MAX);
const _: () = assert!(FRAME_BYTES_MAX * 4 <= MEMBER_BYTES_MAX);
const _: () = assert!(INBOX_BYTES_MAX >= COMMAND_BYTES_MAX * 4);
