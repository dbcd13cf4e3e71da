// Shared helpers: connections to the server of DATABASE_URL, and small statistics.
import pg from 'pg'

export const url = process.env.DATABASE_URL
if (!url) throw new Error('set DATABASE_URL to an empty database that may be spoiled')
export const sleep = (ms) => new Promise((r) => setTimeout(r, ms))
export const pool = (max = 10) => {
  const p = new pg.Pool({ connectionString: url, max, connectionTimeoutMillis: 5000 })
  p.on('error', () => {})
  p.on('connect', (c) => c.on('error', () => {}))
  return p
}
export const quantile = (a, q) => {
  const s = [...a].sort((x, y) => x - y)
  return s[Math.min(s.length - 1, Math.floor(q * s.length))]
}
export const cpuSeconds = (since) => {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1e6
}
// Every script prints one line of JSON and ends, whatever connections are left.
export const answer = (result) => process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
