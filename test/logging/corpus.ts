/**
 * The corpus of the property tests of the log deduplicator: plain data, no imports.
 *
 * A _template_ is one kind of log record. _Instances_ of one template differ only in their variable parts (ids,
 * addresses, durations, sizes, timestamps, counters) and must be recognised as the same record. Two _different_
 * templates must never be taken for the same, also when they differ only in a code: a SQLSTATE, an errno name or
 * number, an HTTP status, an exit status, a signal name or number, a gRPC code name, a PostgreSQL error message, the
 * name of a service, a method, a word of a path, a class, or the line of a stack frame.
 *
 * A number written literally in a text is part of what the record says; a number which varies is a placeholder.
 */

/** What stands for a variable part in a template's text. */
export type Variable = "uuid" | "hex" | "ip" | "ipv6" | "number" | "duration" | "bytes" | "timestamp"

export interface Template {
  /** Where such a record is seen: "postgresql", "http", "syscall", "go", "java", "node", "python", "server", … */
  readonly source: string
  /**
   * The message; `{uuid}`, `{hex}`, `{ip}`, `{ipv6}`, `{number}`, `{duration}`, `{bytes}` and `{timestamp}` stand for
   * what differs from instance to instance. Several lines for a trace.
   */
  readonly text: string
}

/** The templates of one source. */
const from = (source: string, ...texts: ReadonlyArray<string>): ReadonlyArray<Template> =>
  texts.map((text) => ({ source, text }))

export const templates: ReadonlyArray<Template> = [
  ...from(
    "postgresql",
    // the same words, another SQLSTATE
    "query failed: SQLSTATE 57P01",
    "query failed: SQLSTATE 57P02",
    "query failed: SQLSTATE 57P03",
    "query failed: SQLSTATE 57014",
    "transaction {uuid} rolled back after {duration}: SQLSTATE 40001",
    "transaction {uuid} rolled back after {duration}: SQLSTATE 40P01",
    "transaction {uuid} rolled back after {duration}: SQLSTATE 25P02",
    "transaction {uuid} rolled back after {duration}: SQLSTATE 25P03",
    "insert into jobs failed (SQLSTATE 23505)",
    "insert into jobs failed (SQLSTATE 23503)",
    "insert into jobs failed (SQLSTATE 23502)",
    "insert into jobs failed (SQLSTATE 23514)",
    "insert into jobs failed (SQLSTATE 22001)",
    "connection {number} lost: sqlstate=08006",
    "connection {number} lost: sqlstate=08003",
    "connection {number} lost: sqlstate=08001",
    "PgError: statement {hex} failed, code: '53300'",
    "PgError: statement {hex} failed, code: '53200'",
    "PgError: statement {hex} failed, code: '53100'",
    "PgError: statement {hex} failed, code: '42P01'",
    "PgError: statement {hex} failed, code: '42703'",
    // the server's own words
    "FATAL:  terminating connection due to administrator command",
    "FATAL:  terminating connection due to idle-in-transaction timeout",
    "FATAL:  terminating connection due to idle-session timeout",
    "FATAL:  terminating connection due to conflict with recovery",
    "FATAL:  the database system is starting up",
    "FATAL:  the database system is shutting down",
    "FATAL:  the database system is in recovery mode",
    "FATAL:  the database system is not yet accepting connections",
    "FATAL:  sorry, too many clients already",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    "FATAL:  password authentication failed for user \"app\"",
    "FATAL:  password authentication failed for user \"replicator\"",
    "FATAL:  database \"jobs\" does not exist",
    "FATAL:  role \"jobs\" does not exist",
    "FATAL:  no pg_hba.conf entry for host \"{ip}\", user \"app\", database \"jobs\", no encryption",
    "FATAL:  no pg_hba.conf entry for replication connection from host \"{ip}\", user \"replicator\", SSL encryption",
    "{timestamp} UTC [{number}] ERROR:  canceling statement due to statement timeout",
    "{timestamp} UTC [{number}] ERROR:  canceling statement due to lock timeout",
    "{timestamp} UTC [{number}] ERROR:  canceling statement due to user request",
    "{timestamp} UTC [{number}] ERROR:  canceling statement due to conflict with recovery",
    "ERROR:  could not serialize access due to concurrent update",
    "ERROR:  could not serialize access due to concurrent delete",
    "ERROR:  could not serialize access due to read/write dependencies among transactions",
    "ERROR:  current transaction is aborted, commands ignored until end of transaction block",
    "ERROR:  cannot execute INSERT in a read-only transaction",
    "ERROR:  cannot execute UPDATE in a read-only transaction",
    "ERROR:  relation \"jobs\" does not exist at character 15",
    "ERROR:  relation \"job_events\" does not exist at character 15",
    "ERROR:  column \"attempts\" does not exist",
    "ERROR:  permission denied for table jobs",
    "ERROR:  permission denied for schema public",
    "ERROR:  null value in column \"id\" of relation \"jobs\" violates not-null constraint",
    "ERROR:  value too long for type character varying(64)",
    "ERROR:  invalid input syntax for type uuid: \"{hex}\"",
    "ERROR:  invalid input syntax for type json",
    "ERROR:  out of shared memory",
    "ERROR:  cached plan must not change result type",
    "ERROR:  prepared statement \"S_{number}\" already exists",
    "ERROR:  prepared statement \"S_{number}\" does not exist",
    "ERROR:  could not obtain lock on row in relation \"jobs\"",
    "ERROR:  division by zero",
    `ERROR:  duplicate key value violates unique constraint "jobs_pkey"
DETAIL:  Key (id)=({uuid}) already exists.`,
    `ERROR:  insert or update on table "job_events" violates foreign key constraint "job_events_job_id_fkey"
DETAIL:  Key (job_id)=({uuid}) is not present in table "jobs".`,
    `ERROR:  deadlock detected
DETAIL:  Process {number} waits for ShareLock on transaction {number}; blocked by process {number}.
Process {number} waits for ShareLock on transaction {number}; blocked by process {number}.
HINT:  See server log for query details.
CONTEXT:  while updating tuple ({number},{number}) in relation "jobs"`,
    `ERROR:  out of memory
DETAIL:  Failed on request of size {number} in memory context "ExecutorState".`,
    "ERROR:  could not extend file \"base/{number}/{number}\": No space left on device",
    "ERROR:  could not resize shared memory segment \"/PostgreSQL.{number}\" to {bytes}: No space left on device",
    "PANIC:  could not write to file \"pg_wal/xlogtemp.{number}\": No space left on device",
    "PANIC:  could not locate a valid checkpoint record",
    "LOG:  duration: {number} ms  statement: SELECT * FROM jobs WHERE id = '{uuid}'",
    "LOG:  duration: {number} ms  statement: DELETE FROM jobs WHERE id = '{uuid}'",
    "LOG:  process {number} still waiting for ShareLock on transaction {number} after {number} ms",
    "LOG:  process {number} acquired ShareLock on transaction {number} after {number} ms",
    "LOG:  checkpoint starting: time",
    "LOG:  checkpoint starting: wal",
    "LOG:  checkpoint complete: wrote {number} buffers ({number}%); " +
      "write={number} s, sync={number} s, total={number} s",
    "LOG:  could not receive data from client: Connection reset by peer",
    "LOG:  could not send data to client: Broken pipe",
    "LOG:  unexpected EOF on client connection with an open transaction",
    "LOG:  server process (PID {number}) was terminated by signal 9: Killed",
    "LOG:  server process (PID {number}) was terminated by signal 11: Segmentation fault",
    "LOG:  connection received: host={ip} port={number}",
    "LOG:  connection authorized: user=app database=jobs SSL enabled (protocol=TLSv1.3)",
    "LOG:  disconnection: session time: {number} user=app database=jobs host={ip} port={number}",
    "LOG:  temporary file: path \"base/pgsql_tmp/pgsql_tmp{number}\", size {number}",
    "WARNING:  there is already a transaction in progress",
    "WARNING:  there is no transaction in progress",
    "psql: error: connection to server at \"db.internal\" ({ip}), port 5432 failed: Connection refused",
    "psql: error: connection to server at \"db.internal\" ({ip}), port 5432 failed: Connection timed out",
    "server closed the connection unexpectedly",
    "SSL connection has been closed unexpectedly"
  ),
  ...from(
    "http",
    // access logs: only the status, only the method, only the path
    "\"GET /api/v1/jobs HTTP/1.1\" 200 {bytes}",
    "\"GET /api/v1/jobs HTTP/1.1\" 404 {bytes}",
    "\"GET /api/v1/jobs HTTP/1.1\" 500 {bytes}",
    "\"GET /api/v1/jobs HTTP/1.1\" 503 {bytes}",
    "\"POST /api/v1/jobs HTTP/1.1\" 500 {bytes}",
    "\"DELETE /api/v1/jobs HTTP/1.1\" 500 {bytes}",
    "\"GET /api/v1/users HTTP/1.1\" 500 {bytes}",
    "{ip} - - [{timestamp}] \"GET /healthz HTTP/1.1\" 200 {number} \"-\" \"kube-probe/1.29\"",
    "{ip} - - [{timestamp}] \"GET /healthz HTTP/1.1\" 503 {number} \"-\" \"kube-probe/1.29\"",
    "{ip} - - [{timestamp}] \"GET /readyz HTTP/1.1\" 503 {number} \"-\" \"kube-probe/1.29\"",
    "{ip} - app [{timestamp}] \"PUT /files/{uuid} HTTP/2.0\" 201 {number}",
    "{ip} - app [{timestamp}] \"PUT /files/{uuid} HTTP/2.0\" 413 {number}",
    "{ip} - app [{timestamp}] \"PATCH /files/{uuid} HTTP/2.0\" 413 {number}",
    "GET /jobs/{uuid} 200 {duration}",
    "GET /jobs/{uuid} 404 {duration}",
    "GET /jobs/{uuid}/events 404 {duration}",
    "GET /jobs/{uuid}/result 404 {duration}",
    "HEAD /jobs/{uuid} 404 {duration}",
    "GET /users/{number}/orders -> 401 in {duration}",
    "GET /users/{number}/orders -> 403 in {duration}",
    "GET /users/{number}/invoices -> 403 in {duration}",
    "request {uuid} done status=200 duration={duration}",
    "request {uuid} done status=502 duration={duration}",
    "request {uuid} done status=503 duration={duration}",
    "request {uuid} done status=504 duration={duration}",
    "level=error method=POST path=/v1/charge status=500 bytes={number} remote={ip}",
    "level=error method=POST path=/v1/charge status=502 bytes={number} remote={ip}",
    "level=error method=POST path=/v1/refund status=502 bytes={number} remote={ip}",
    "level=error method=PUT path=/v1/refund status=502 bytes={number} remote={ip}",
    "{\"msg\":\"request failed\",\"id\":\"{uuid}\",\"status\":500,\"took\":\"{duration}\"}",
    "{\"msg\":\"request failed\",\"id\":\"{uuid}\",\"status\":408,\"took\":\"{duration}\"}",
    // clients
    "HTTP 429",
    "HTTP 503",
    "HTTP 429 from https://api.example.com/v1/search, retry after {duration}",
    "HTTP 503 from https://api.example.com/v1/search, retry after {duration}",
    "HTTP 429 from https://api.example.com/v1/index, retry after {duration}",
    "HTTP/1.1 400 Bad Request",
    "HTTP/1.1 401 Unauthorized",
    "HTTP/1.1 502 Bad Gateway",
    "HTTP/1.1 504 Gateway Timeout",
    "unexpected status code 500 from billing",
    "unexpected status code 502 from billing",
    "unexpected status code 502 from inventory",
    "upstream billing unavailable: status 503, attempt {number} of {number}",
    "upstream inventory unavailable: status 503, attempt {number} of {number}",
    "AxiosError: Request failed with status code 401",
    "AxiosError: Request failed with status code 422",
    "AxiosError: timeout of {number}ms exceeded",
    "curl: (6) Could not resolve host: api.example.com",
    "curl: (7) Failed to connect to {ip} port 443 after {number} ms: Connection refused",
    "curl: (22) The requested URL returned error: 404",
    "curl: (28) Operation timed out after {number} milliseconds with {number} bytes received",
    "curl: (35) OpenSSL SSL_connect: Connection reset by peer in connection to api.example.com:443",
    "webhook https://hooks.example.com/{hex} answered 410 Gone, disabling it",
    "http2: stream {number} reset: REFUSED_STREAM",
    "http2: stream {number} reset: INTERNAL_ERROR",
    "http2: stream {number} reset: ENHANCE_YOUR_CALM",
    "http2: server sent GOAWAY and closed the connection; LastStreamID={number}, ErrCode=NO_ERROR, debug=\"\"",
    "http2: server sent GOAWAY and closed the connection; LastStreamID={number}, ErrCode=PROTOCOL_ERROR, debug=\"\"",
    "TLS handshake error from {ip}:{number}: EOF",
    "TLS handshake error from {ip}:{number}: remote error: tls: bad certificate",
    "TLS handshake error from [{ipv6}]:{number}: tls: first record does not look like a TLS handshake",
    "websocket {uuid} closed: code=1006",
    "websocket {uuid} closed: code=1001",
    "websocket {uuid} closed: code=1011",
    "websocket: close 1006 (abnormal closure): unexpected EOF",
    "request body of {bytes} exceeds the limit of {bytes}",
    "CORS: origin https://evil.example refused for OPTIONS /api/v1/jobs"
  ),
  ...from(
    "syscall",
    "connect ECONNREFUSED {ip}:5432",
    "connect ETIMEDOUT {ip}:5432",
    "connect EHOSTUNREACH {ip}:5432",
    "connect ENETUNREACH {ip}:5432 - Local ({ip}:{number})",
    "connect EAFNOSUPPORT [{ipv6}]:5432",
    "connect ECONNREFUSED /var/run/postgresql/.s.PGSQL.5432",
    "connect ENOENT /var/run/postgresql/.s.PGSQL.5432",
    "connect EACCES /var/run/docker.sock",
    "read ECONNRESET",
    "read ETIMEDOUT",
    "write ECONNRESET",
    "write EPIPE",
    "listen EADDRINUSE: address already in use :::8080",
    "listen EACCES: permission denied 0.0.0.0:80",
    "bind EADDRNOTAVAIL {ip}",
    "getaddrinfo ENOTFOUND db.internal",
    "getaddrinfo EAI_AGAIN db.internal",
    "getaddrinfo EAI_AGAIN cache.internal",
    "connect to {ip} failed, errno=111",
    "connect to {ip} failed, errno=113",
    "connect to {ip} failed, errno=110",
    "connect to {ip} failed, errno=101",
    "socket {number} closed by peer, errno: -104",
    "socket {number} closed by peer, errno: -32",
    "socket {number} closed by peer, errno: -110",
    "send() to {ip}:{number} failed (errno 11)",
    "send() to {ip}:{number} failed (errno 105)",
    "ENOENT: no such file or directory, open '/etc/app/config.yaml'",
    "ENOENT: no such file or directory, stat '/etc/app/config.yaml'",
    "ENOENT: no such file or directory, open '/var/lib/app/{uuid}.json'",
    "EACCES: permission denied, open '/etc/app/config.yaml'",
    "EISDIR: illegal operation on a directory, read",
    "ENOSPC: no space left on device, write",
    "ENOSPC: System limit for number of file watchers reached, watch '/app/src'",
    "EMFILE: too many open files, open '/var/lib/app/{uuid}.json'",
    "ENFILE: file table overflow, open '/var/lib/app/{uuid}.json'",
    "EROFS: read-only file system, mkdir '/data/{uuid}'",
    "EEXIST: file already exists, mkdir '/data/{uuid}'",
    "EXDEV: cross-device link not permitted, rename '/tmp/{hex}' -> '/data/{hex}'",
    "ENOTEMPTY: directory not empty, rmdir '/data/{uuid}'",
    "EBUSY: resource busy or locked, unlink '/data/{uuid}'",
    "epoll_wait(fd={number}) = -1 EINTR",
    "epoll_wait(fd={number}) = -1 EBADF",
    "fsync(fd={number}) = -1 EIO",
    "mmap of {bytes} failed: Cannot allocate memory",
    "accept4: too many open files; retrying in {duration}",
    "Connection refused (os error 111)",
    "Broken pipe (os error 32)"
  ),
  ...from(
    "process",
    "exit status 1",
    "exit status 2",
    "exit status 127",
    "exit code 137",
    "exit code 139",
    "exit code 143",
    "worker {number} exited with code 0",
    "worker {number} exited with code 1",
    "worker {number} exited with code 134",
    "child {number} killed by signal 9",
    "child {number} killed by signal 15",
    "child {number} killed by signal 6",
    "child {number} killed by SIGKILL",
    "child {number} killed by SIGTERM",
    "child {number} killed by SIGSEGV",
    "process {number} terminated (exit=1, signal=null) after {duration}",
    "process {number} terminated (exit=null, signal=SIGABRT) after {duration}",
    "process {number} terminated (exit=78, signal=null) after {duration}",
    "received SIGHUP, reloading",
    "received SIGINT, shutting down",
    "received SIGTERM, shutting down",
    "npm error code ELIFECYCLE",
    "npm error code ENOENT",
    "make: *** [Makefile:12: build] Error 2",
    "Segmentation fault (core dumped)",
    "Out of memory: Killed process {number} (node) total-vm:{number}kB, anon-rss:{number}kB, file-rss:{number}kB",
    "Out of memory: Killed process {number} (java) total-vm:{number}kB, anon-rss:{number}kB, file-rss:{number}kB",
    "free(): invalid pointer",
    "*** stack smashing detected ***: terminated"
  ),
  ...from(
    "go",
    "context canceled",
    "context deadline exceeded",
    "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    "dial tcp {ip}:5432: connect: connection refused",
    "dial tcp {ip}:5432: connect: no route to host",
    "dial tcp {ip}:5432: i/o timeout",
    "dial tcp [{ipv6}]:5432: connect: network is unreachable",
    "dial tcp: lookup db.internal on {ip}:53: no such host",
    "dial tcp: lookup db.internal on {ip}:53: server misbehaving",
    "dial tcp: lookup cache.internal on {ip}:53: no such host",
    "dial unix /var/run/docker.sock: connect: permission denied",
    "read tcp {ip}:{number}->{ip}:5432: read: connection reset by peer",
    "read tcp {ip}:{number}->{ip}:5432: i/o timeout",
    "write tcp {ip}:{number}->{ip}:5432: write: broken pipe",
    "Get \"https://api.example.com/v1/jobs/{uuid}\": net/http: TLS handshake timeout",
    "Post \"https://api.example.com/v1/jobs/{uuid}\": net/http: TLS handshake timeout",
    "Get \"https://api.example.com/v1/jobs/{uuid}\": EOF",
    "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: " +
      "current time {timestamp} is after {timestamp}",
    "rpc error: code = Unavailable desc = connection error: desc = \"transport: error while dialing {ip}:{number}\"",
    "rpc error: code = Unavailable desc = upstream request failed",
    "rpc error: code = DeadlineExceeded desc = upstream request failed",
    "rpc error: code = ResourceExhausted desc = upstream request failed",
    "rpc error: code = Internal desc = upstream request failed",
    "rpc error: code = Canceled desc = context canceled",
    "rpc error: code = NotFound desc = job {uuid} not found",
    "rpc error: code = PermissionDenied desc = job {uuid} not found",
    "rpc error: code = Unimplemented desc = unknown method Cancel for service jobs.v1.Jobs",
    "rpc error: code = Unimplemented desc = unknown method Retry for service jobs.v1.Jobs",
    "ERROR: duplicate key value violates unique constraint \"jobs_pkey\" (SQLSTATE 23505)",
    "failed to connect to `host=db.internal user=app database=jobs`: server error (FATAL: too many (SQLSTATE 53300))",
    "failed to connect to `host=db.internal user=app database=jobs`: server error (FATAL: too many (SQLSTATE 53400))",
    "sql: no rows in result set",
    "sql: database is closed",
    "sql: transaction has already been committed or rolled back",
    "json: cannot unmarshal string into Go struct field Job.attempts of type int",
    "json: cannot unmarshal number into Go struct field Job.attempts of type string",
    "strconv.Atoi: parsing \"\": invalid syntax",
    "http: proxy error: context canceled",
    "http: panic serving {ip}:{number}: runtime error: invalid memory address or nil pointer dereference",
    "time={timestamp} level=WARN msg=\"slow query\" id={hex} took={duration}",
    "time={timestamp} level=ERROR msg=\"slow query\" id={hex} took={duration}",
    `panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x{hex}]

goroutine {number} [running]:
main.(*Worker).run(0x{hex})
\t/app/worker.go:42 +0x1d
created by main.main in goroutine 1
\t/app/main.go:17 +0x5c`,
    `panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x{hex}]

goroutine {number} [running]:
main.(*Worker).run(0x{hex})
\t/app/worker.go:57 +0x1d
created by main.main in goroutine 1
\t/app/main.go:17 +0x5c`,
    `panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGBUS: bus error code=0x2 addr=0x0 pc=0x{hex}]

goroutine {number} [running]:
main.(*Worker).run(0x{hex})
\t/app/worker.go:42 +0x1d
created by main.main in goroutine 1
\t/app/main.go:17 +0x5c`,
    `panic: runtime error: index out of range [{number}] with length {number}

goroutine {number} [running]:
example.com/app/queue.(*Ring).Pop(...)
\t/app/queue/ring.go:88
main.main()
\t/app/main.go:31 +0x1a5
exit status 2`,
    `panic: runtime error: slice bounds out of range [:{number}] with capacity {number}

goroutine {number} [running]:
example.com/app/queue.(*Ring).Pop(...)
\t/app/queue/ring.go:88
main.main()
\t/app/main.go:31 +0x1a5
exit status 2`,
    `panic: assignment to entry in nil map

goroutine {number} [running]:
example.com/app/cache.(*Cache).Put(0x{hex}, {0x{hex}, 0x24})
\t/app/cache/cache.go:64 +0x4f`,
    `panic: assignment to entry in nil map

goroutine {number} [running]:
example.com/app/cache.(*Cache).Touch(0x{hex}, {0x{hex}, 0x24})
\t/app/cache/cache.go:64 +0x4f`,
    `panic: send on closed channel

goroutine {number} [running]:
main.produce(0x{hex})
\t/app/produce.go:23 +0x85
created by main.start in goroutine {number}
\t/app/main.go:40 +0x11b`,
    `panic: close of closed channel

goroutine {number} [running]:
main.produce(0x{hex})
\t/app/produce.go:23 +0x85
created by main.start in goroutine {number}
\t/app/main.go:40 +0x11b`,
    `fatal error: all goroutines are asleep - deadlock!

goroutine 1 [chan receive]:
main.main()
\t/app/main.go:19 +0x3d
exit status 2`,
    `fatal error: all goroutines are asleep - deadlock!

goroutine 1 [select (no cases)]:
main.main()
\t/app/main.go:19 +0x3d
exit status 2`,
    `fatal error: concurrent map writes

goroutine {number} [running]:
example.com/app/cache.(*Cache).Put(0x{hex})
\t/app/cache/cache.go:71 +0x4f
created by example.com/app/cache.New in goroutine {number}
\t/app/cache/cache.go:30 +0x9a`,
    `fatal error: concurrent map iteration and map write

goroutine {number} [running]:
example.com/app/cache.(*Cache).Put(0x{hex})
\t/app/cache/cache.go:71 +0x4f
created by example.com/app/cache.New in goroutine {number}
\t/app/cache/cache.go:30 +0x9a`
  ),
  ...from(
    "java",
    "java.lang.OutOfMemoryError: Java heap space",
    "java.lang.OutOfMemoryError: Metaspace",
    "java.lang.OutOfMemoryError: GC overhead limit exceeded",
    "java.net.ConnectException: Connection refused",
    "java.net.SocketTimeoutException: Read timed out",
    "java.net.SocketTimeoutException: Connect timed out",
    "java.net.SocketException: Connection reset",
    "java.net.SocketException: Broken pipe",
    "java.net.UnknownHostException: db.internal",
    "{timestamp} ERROR [http-nio-8080-exec-{number}] c.e.JobController - job {uuid} failed",
    "{timestamp} ERROR [http-nio-8080-exec-{number}] c.e.UserController - job {uuid} failed",
    "{timestamp} WARN  [http-nio-8080-exec-{number}] c.e.UserController - job {uuid} failed",
    "HikariPool-1 - Connection is not available, request timed out after {number}ms.",
    "HikariPool-1 - Thread starvation or clock leap detected (housekeeper delta={duration}).",
    "HikariPool-1 - Failed to validate connection org.postgresql.jdbc.PgConnection@{hex} " +
      "(This connection has been closed.).",
    "SQL Error: 0, SQLState: 40001",
    "SQL Error: 0, SQLState: 40P01",
    "SQL Error: 0, SQLState: 08006",
    "org.postgresql.util.PSQLException: FATAL: sorry, too many clients already",
    "org.postgresql.util.PSQLException: An I/O error occurred while sending to the backend.",
    "[gc] GC({number}) Pause Young (Normal) (G1 Evacuation Pause) {number}M->{number}M({number}M) {number}ms",
    "[gc] GC({number}) Pause Full (G1 Compaction Pause) {number}M->{number}M({number}M) {number}ms",
    "Started Application in {number} seconds (process running for {number})",
    `java.lang.NullPointerException: Cannot invoke "String.length()" because "name" is null
\tat com.example.Foo.bar(Foo.java:42)
\tat com.example.Main.main(Main.java:11)`,
    `java.lang.NullPointerException: Cannot invoke "String.length()" because "name" is null
\tat com.example.Foo.bar(Foo.java:43)
\tat com.example.Main.main(Main.java:11)`,
    `java.lang.NullPointerException: Cannot invoke "String.length()" because "name" is null
\tat com.example.Baz.bar(Baz.java:42)
\tat com.example.Main.main(Main.java:11)`,
    `java.lang.NullPointerException: Cannot invoke "String.length()" because "name" is null
\tat com.example.Foo.qux(Foo.java:42)
\tat com.example.Main.main(Main.java:11)`,
    `java.lang.IllegalStateException: job {uuid} is already running
\tat com.example.jobs.JobRunner.start(JobRunner.java:118)
\tat com.example.jobs.JobQueue.poll(JobQueue.java:64)
\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)
\tat java.base/java.lang.Thread.run(Thread.java:840)`,
    `java.lang.IllegalArgumentException: job {uuid} is already running
\tat com.example.jobs.JobRunner.start(JobRunner.java:118)
\tat com.example.jobs.JobQueue.poll(JobQueue.java:64)
\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)
\tat java.base/java.lang.Thread.run(Thread.java:840)`,
    `java.lang.IllegalStateException: job {uuid} is already running
\tat com.example.jobs.JobRunner.start(JobRunner.java:131)
\tat com.example.jobs.JobQueue.poll(JobQueue.java:64)
\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)
\tat java.base/java.lang.Thread.run(Thread.java:840)`,
    `java.lang.ArrayIndexOutOfBoundsException: Index {number} out of bounds for length {number}
\tat com.example.Ring.pop(Ring.java:27)
\tat com.example.Main.main(Main.java:15)`,
    `java.lang.StringIndexOutOfBoundsException: Index {number} out of bounds for length {number}
\tat com.example.Ring.pop(Ring.java:27)
\tat com.example.Main.main(Main.java:15)`,
    `Exception in thread "pool-{number}-thread-{number}" java.util.concurrent.RejectedExecutionException
\tat java.base/java.util.concurrent.ThreadPoolExecutor$AbortPolicy.rejectedExecution(ThreadPoolExecutor.java:2081)
\tat com.example.jobs.Pool.submit(Pool.java:52)`,
    `org.springframework.web.client.ResourceAccessException: I/O error on GET request for "http://billing/{uuid}"
\tat org.springframework.web.client.RestTemplate.doExecute(RestTemplate.java:791)
\tat com.example.billing.Client.invoice(Client.java:33)
Caused by: java.net.ConnectException: Connection refused
\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)
\t... 14 more`,
    `org.springframework.web.client.ResourceAccessException: I/O error on GET request for "http://billing/{uuid}"
\tat org.springframework.web.client.RestTemplate.doExecute(RestTemplate.java:791)
\tat com.example.billing.Client.invoice(Client.java:33)
Caused by: java.net.NoRouteToHostException: No route to host
\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)
\t... 14 more`,
    `io.grpc.StatusRuntimeException: UNAVAILABLE: io exception
\tat io.grpc.stub.ClientCalls.toStatusRuntimeException(ClientCalls.java:268)
\tat com.example.jobs.Client.submit(Client.java:71)`,
    `io.grpc.StatusRuntimeException: DEADLINE_EXCEEDED: deadline exceeded after {number}s
\tat io.grpc.stub.ClientCalls.toStatusRuntimeException(ClientCalls.java:268)
\tat com.example.jobs.Client.submit(Client.java:71)`,
    `java.lang.ClassCastException: class com.example.Job cannot be cast to class com.example.Task
\tat com.example.Registry$Entry.cast(Registry.java:90)
\tat com.example.Registry.lambda$find$0(Registry.java:54)`,
    `java.lang.ClassCastException: class com.example.Task cannot be cast to class com.example.Job
\tat com.example.Registry$Entry.cast(Registry.java:90)
\tat com.example.Registry.lambda$find$0(Registry.java:54)`
  ),
  ...from(
    "node",
    "TypeError: fetch failed",
    "TypeError: Cannot read properties of undefined (reading 'id')",
    "TypeError: Cannot read properties of null (reading 'id')",
    "TypeError: Cannot read properties of undefined (reading 'name')",
    "TypeError: job.run is not a function",
    "ReferenceError: job is not defined",
    "SyntaxError: Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON",
    "SyntaxError: Unexpected end of JSON input",
    "RangeError: Maximum call stack size exceeded",
    "AbortError: This operation was aborted",
    "TimeoutError: The operation was aborted due to timeout",
    "Error [ERR_STREAM_PREMATURE_CLOSE]: Premature close",
    "Error [ERR_STREAM_DESTROYED]: Cannot call write after a stream was destroyed",
    "Error [ERR_HTTP_HEADERS_SENT]: Cannot set headers after they are sent to the client",
    "Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'pg' imported from /app/src/db.js",
    "(node:{number}) MaxListenersExceededWarning: Possible EventEmitter memory leak detected. " +
      "11 error listeners added to [Socket]. Use emitter.setMaxListeners() to increase limit",
    "(node:{number}) [DEP0040] DeprecationWarning: The `punycode` module is deprecated.",
    "(node:{number}) [DEP0005] DeprecationWarning: Buffer() is deprecated due to security and usability issues.",
    "(node:{number}) ExperimentalWarning: SQLite is an experimental feature and might change at any time",
    "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
    "FATAL ERROR: Ineffective mark-compacts near heap limit Allocation failed - JavaScript heap out of memory",
    "[{number}:0x{hex}] {number} ms: Mark-Compact {number} ({number}) -> {number} ({number}) MB",
    "Error: Connection terminated unexpectedly",
    "Error: Connection terminated due to connection timeout",
    `TypeError: job {uuid} has no handler
    at run (file:///app/src/worker.js:12:5)
    at async Queue.drain (file:///app/src/queue.js:88:7)
    at async file:///app/src/main.js:31:3`,
    `RangeError: job {uuid} has no handler
    at run (file:///app/src/worker.js:12:5)
    at async Queue.drain (file:///app/src/queue.js:88:7)
    at async file:///app/src/main.js:31:3`,
    `Error: job {uuid} has no handler
    at run (file:///app/src/worker.js:12:5)
    at async Queue.drain (file:///app/src/queue.js:88:7)
    at async file:///app/src/main.js:31:3`,
    `Error: job {uuid} has no handler
    at run (file:///app/src/worker.js:19:5)
    at async Queue.drain (file:///app/src/queue.js:88:7)
    at async file:///app/src/main.js:31:3`,
    `Error: job {uuid} has no handler
    at start (file:///app/src/worker.js:12:5)
    at async Queue.drain (file:///app/src/queue.js:88:7)
    at async file:///app/src/main.js:31:3`,
    `Error: connect ECONNREFUSED {ip}:6379
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1611:16) {
  errno: -111,
  code: 'ECONNREFUSED',
  syscall: 'connect'
}`,
    `Error: connect ETIMEDOUT {ip}:6379
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1611:16) {
  errno: -110,
  code: 'ETIMEDOUT',
  syscall: 'connect'
}`,
    `Error: read ECONNRESET
    at TCP.onStreamRead (node:internal/stream_base_commons:216:20) {
  errno: -104,
  code: 'ECONNRESET',
  syscall: 'read'
}`,
    `error: duplicate key value violates unique constraint "jobs_pkey"
    at Parser.parseErrorMessage (/app/node_modules/pg-protocol/dist/parser.js:285:98)
    at Socket.<anonymous> (/app/node_modules/pg-protocol/dist/index.js:11:42) {
  length: {number},
  severity: 'ERROR',
  code: '23505',
  detail: 'Key (id)=({uuid}) already exists.'
}`,
    `error: update or delete on table "jobs" violates foreign key constraint "events_fkey"
    at Parser.parseErrorMessage (/app/node_modules/pg-protocol/dist/parser.js:285:98)
    at Socket.<anonymous> (/app/node_modules/pg-protocol/dist/index.js:11:42) {
  length: {number},
  severity: 'ERROR',
  code: '23503',
  detail: 'Key (id)=({uuid}) is still referenced from table "events".'
}`,
    `Uncaught Error: assertion failed
    at file:///app/src/check.js:7:9
    at ModuleJob.run (node:internal/modules/esm/module_job:234:25)

Node.js v22.3.0`,
    `Uncaught AssertionError: assertion failed
    at file:///app/src/check.js:7:9
    at ModuleJob.run (node:internal/modules/esm/module_job:234:25)

Node.js v22.3.0`
  ),
  ...from(
    "python",
    "KeyError: 'id'",
    "KeyError: 'name'",
    "ValueError: invalid literal for int() with base 10: ''",
    "MemoryError",
    "KeyboardInterrupt",
    "RecursionError: maximum recursion depth exceeded",
    "ConnectionRefusedError: [Errno 111] Connection refused",
    "ConnectionResetError: [Errno 104] Connection reset by peer",
    "BrokenPipeError: [Errno 32] Broken pipe",
    "OSError: [Errno 28] No space left on device",
    "OSError: [Errno 24] Too many open files: '/tmp/{hex}'",
    "OSError: [Errno 98] Address already in use",
    "urllib3.exceptions.MaxRetryError: HTTPConnectionPool(host='{ip}', port=8080): " +
      "Max retries exceeded with url: /jobs",
    "urllib3.exceptions.MaxRetryError: HTTPConnectionPool(host='{ip}', port=8080): " +
      "Max retries exceeded with url: /users",
    "requests.exceptions.HTTPError: 500 Server Error: Internal Server Error for url: https://api.example.com/jobs",
    "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://api.example.com/jobs",
    "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='api.example.com', port=443): Read timed out.",
    "psycopg.errors.SerializationFailure: could not serialize access due to concurrent update",
    "psycopg.errors.DeadlockDetected: deadlock detected",
    "psycopg.OperationalError: connection failed: connection to server at \"{ip}\", port 5432 failed",
    "[{timestamp}] [{number}] [CRITICAL] WORKER TIMEOUT (pid:{number})",
    "[{timestamp}] [{number}] [INFO] Booting worker with pid: {number}",
    "Task jobs.tasks.send_mail[{uuid}] succeeded in {duration}: None",
    "Task jobs.tasks.send_mail[{uuid}] received",
    "Task jobs.tasks.send_text[{uuid}] received",
    "<Task pending name='Task-{number}' coro=<run() running at /app/worker.py:12>> was destroyed",
    `Traceback (most recent call last):
  File "/app/worker.py", line 42, in run
    job.start()
  File "/app/job.py", line 17, in start
    raise ValueError(self.id)
ValueError: {uuid}`,
    `Traceback (most recent call last):
  File "/app/worker.py", line 44, in run
    job.start()
  File "/app/job.py", line 17, in start
    raise ValueError(self.id)
ValueError: {uuid}`,
    `Traceback (most recent call last):
  File "/app/worker.py", line 42, in run
    handle(job)
RuntimeError: job {uuid} failed`,
    `Traceback (most recent call last):
  File "/app/worker.py", line 42, in run
    handle(job)
TimeoutError: job {uuid} failed`,
    `Traceback (most recent call last):
  File "/app/worker.py", line 42, in run
    handle(job)
PermissionError: job {uuid} failed`,
    `Traceback (most recent call last):
  File "/app/worker.py", line 42, in drain
    handle(job)
PermissionError: job {uuid} failed`,
    `Traceback (most recent call last):
  File "/app/main.py", line 9, in <module>
    import psycopg
ModuleNotFoundError: No module named 'psycopg'`,
    `Traceback (most recent call last):
  File "/app/main.py", line 9, in <module>
    import psycopg
ImportError: no pq wrapper available.`
  ),
  ...from(
    "kubernetes",
    "Back-off restarting failed container api in pod api-{hex}_default({uuid})",
    "Back-off restarting failed container worker in pod api-{hex}_default({uuid})",
    "Back-off pulling image \"registry.example.com/api@sha256:{hex}\"",
    "Failed to pull image \"registry.example.com/api@sha256:{hex}\": not found",
    "Liveness probe failed: HTTP probe failed with statuscode: 500",
    "Liveness probe failed: HTTP probe failed with statuscode: 503",
    "Readiness probe failed: HTTP probe failed with statuscode: 503",
    "Readiness probe failed: Get \"http://{ip}:8080/healthz\": context deadline exceeded",
    "Readiness probe failed: dial tcp {ip}:8080: connect: connection refused",
    "0/{number} nodes are available: {number} Insufficient cpu.",
    "0/{number} nodes are available: {number} Insufficient memory.",
    "Container api terminated: reason=OOMKilled exitCode=137",
    "Container api terminated: reason=Error exitCode=1",
    "Container api terminated: reason=Error exitCode=2",
    "pod/api-{hex} evicted: The node was low on resource: ephemeral-storage.",
    "pod/api-{hex} evicted: The node was low on resource: memory.",
    "Failed to update lease: Operation cannot be fulfilled: the object has been modified"
  ),
  ...from(
    "systemd",
    "api.service: Main process exited, code=exited, status=1/FAILURE",
    "api.service: Main process exited, code=exited, status=203/EXEC",
    "api.service: Main process exited, code=killed, status=9/KILL",
    "api.service: Main process exited, code=killed, status=15/TERM",
    "api.service: Main process exited, code=dumped, status=11/SEGV",
    "worker.service: Main process exited, code=exited, status=1/FAILURE",
    "api.service: Failed with result 'exit-code'.",
    "api.service: Failed with result 'oom-kill'.",
    "api.service: Scheduled restart job, restart counter is at {number}.",
    "api.service: Consumed {duration} CPU time.",
    "systemd[{number}]: Started api.service - The API.",
    "systemd[{number}]: Stopped api.service - The API."
  ),
  ...from(
    "nginx",
    "{timestamp} [error] {number}#{number}: *{number} connect() failed (111: Connection refused) while connecting to " +
      "upstream, client: {ip}, server: _, request: \"GET /jobs HTTP/1.1\", upstream: \"http://{ip}:8080/jobs\"",
    "{timestamp} [error] {number}#{number}: *{number} connect() failed (113: No route to host) while connecting to " +
      "upstream, client: {ip}, server: _, request: \"GET /jobs HTTP/1.1\", upstream: \"http://{ip}:8080/jobs\"",
    "{timestamp} [error] {number}#{number}: *{number} connect() failed (113: No route to host) while connecting to " +
      "upstream, client: {ip}, server: _, request: \"POST /jobs HTTP/1.1\", upstream: \"http://{ip}:8080/jobs\"",
    "{timestamp} [error] {number}#{number}: *{number} upstream prematurely closed connection, client: {ip}",
    "{timestamp} [error] {number}#{number}: *{number} no live upstreams while connecting to upstream, client: {ip}",
    "{timestamp} [warn] {number}#{number}: *{number} an upstream response is buffered to a temporary file",
    "{timestamp} [error] {number}#{number}: *{number} client intended to send too large body: {number} bytes",
    "{timestamp} [alert] {number}#{number}: worker process {number} exited on signal 9",
    "{timestamp} [alert] {number}#{number}: worker process {number} exited on signal 11",
    "{timestamp} [notice] {number}#{number}: signal 15 (SIGTERM) received, exiting",
    "{timestamp} [notice] {number}#{number}: signal 3 (SIGQUIT) received, shutting down"
  ),
  ...from(
    "redis",
    "MOVED {number} {ip}:6379",
    "ASK {number} {ip}:6379",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOAUTH Authentication required.",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "{number}:M {timestamp} * Background saving started by pid {number}",
    "{number}:M {timestamp} * Background saving terminated with success",
    "{number}:M {timestamp} # Background saving error"
  ),
  ...from(
    "kafka",
    "[Consumer clientId=jobs, groupId=workers] Group coordinator {ip}:9092 (id: {number} rack: null) is unavailable",
    "[Consumer clientId=jobs, groupId=mailers] Group coordinator {ip}:9092 (id: {number} rack: null) is unavailable",
    "[Producer clientId=jobs] Got error produce response with correlation id {number}: NOT_LEADER_OR_FOLLOWER",
    "[Producer clientId=jobs] Got error produce response with correlation id {number}: REQUEST_TIMED_OUT",
    "[Partition events-{number} broker={number}] Shrinking ISR to {number}",
    "[Partition events-{number} broker={number}] Expanding ISR to {number}"
  ),
  ...from(
    "docker",
    "Error response from daemon: No such container: {hex}",
    "Error response from daemon: No such image: {hex}",
    "Error response from daemon: conflict: unable to delete {hex} (must be forced)",
    "container {hex} died, exit code 1",
    "container {hex} died, exit code 126",
    "container {hex} died, exit code 255",
    "time=\"{timestamp}\" level=info msg=\"shim disconnected\" id={hex} namespace=moby",
    "time=\"{timestamp}\" level=warning msg=\"cleaning up after shim disconnected\" id={hex} namespace=moby"
  ),
  ...from(
    "server",
    "ok",
    "retrying",
    "done",
    "ready",
    "listening on {ip}:{number}",
    "accepting connections on [{ipv6}]:{number}",
    "job {uuid} failed",
    "job {uuid} failed after {duration}",
    "job {uuid} succeeded after {duration}",
    "job {uuid} cancelled after {duration}",
    "task {uuid} failed after {duration}",
    "peer {ip} lost",
    "peer {ip} joined",
    "peer {ipv6} banned until {timestamp}",
    "cache miss for key user:{number}",
    "cache hit for key user:{number}",
    "cache miss for key session:{number}",
    "sent {bytes} to {ip}",
    "received {bytes} from {ip}",
    "sent {bytes} to {ip} in {duration}",
    "retrying in {duration}",
    "retrying in {duration} (attempt {number})",
    "heap {bytes} of {bytes} used",
    "disk /data {number}% full",
    "disk /var {number}% full",
    "commit {hex} deployed at {timestamp}",
    "commit {hex} rolled back at {timestamp}",
    "queue \"mail\" holds {number} jobs",
    "queue \"report\" holds {number} jobs",
    "trace_id={hex} span_id={hex} lease lost",
    "trace_id={hex} span_id={hex} lease renewed",
    "lease of worker {uuid} expired {duration} ago",
    "clock skew of {duration} against {ip}",
    "circuit for billing opened",
    "circuit for inventory opened",
    "circuit for billing closed",
    "Benutzer {number} wurde gelöscht — Gründe siehe Protokoll",
    "l'utilisateur {number} n'a pas été trouvé",
    "ジョブ {uuid} が失敗しました",
    "任务 {uuid} 失败，耗时 {duration}",
    "✓ migrated «jobs» in {duration}",
    "✗ migrated «jobs» in {duration}",
    "🚀 deployed {hex}",
    "user said: \"it's broken\", ticket {number}",
    "payload rejected: {\"job\":\"{uuid}\",\"state\":\"failed\",\"attempts\":{number}}",
    "payload rejected: {\"job\":\"{uuid}\",\"state\":\"timeout\",\"attempts\":{number}}",
    "payload rejected: {\"job\":\"{uuid}\",\"reason\":{\"code\":\"E_SCHEMA\"},\"at\":\"{timestamp}\"}",
    "payload rejected: {\"job\":\"{uuid}\",\"reason\":{\"code\":\"E_QUOTA\"},\"at\":\"{timestamp}\"}",
    "flushed {number} records ({bytes}) in {duration}",
    "dropped {number} records ({bytes}) in {duration}",
    "config reloaded at {timestamp}: {number} keys changed"
  )
]
