/**
 * Names of fields and annotations that tell one request, job or peer from another: two records that differ in nothing else
 * are of one kind.
 */
export const correlations: ReadonlyArray<string> = [
  "traceId",
  "trace_id",
  "spanId",
  "span_id",
  "requestId",
  "request_id",
  "reqId",
  "req_id",
  "correlationId",
  "correlation_id",
  "sessionId",
  "session_id",
  "userId",
  "user_id",
  "jobId",
  "job_id",
  "job",
  "peerId",
  "peer_id",
  "peer",
  "fiber",
  "id"
]

// Only as a field is written: "job: failed" is a sentence, whose end matters.
const names = correlations.join("|")
const field = new RegExp(
  `("(?:${names})"\\s*:\\s*|(?<![\\w.-])(?:${names})=)(?:"(?:[^"\\\\]|\\\\.)*"|[^\\s",;}&\\]]+)`,
  "gi"
)

/** A text without the values of such fields, in JSON and in logfmt. */
export const withoutCorrelations = (text: string): string => text.replace(field, "$1<id>")
