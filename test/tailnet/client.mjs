// A client of the tailnet in plain JavaScript, written from docs/tailnet.md alone.
// node client.mjs URL PEER [TUNNEL…]: prints what it knows of others, a JSON line for each change.
const [url, peer, ...tunnels] = process.argv.slice(2)
const known = new Map()
let resume
let delay = 50
let leaving = false
let spread = 0
let mentioned = new Set()
let socket

const node = {
  key: "a plain client",
  endpoints: ["192.0.2.1:41641"],
  relay: { preferred: 1, latencies: {} },
  addresses: [],
  allowedIps: [],
  asOf: Date.now()
}

const apply = (update) => {
  if (update.kind === "node" || update.kind === "lost") mentioned.add(update.peer)
  if (update.kind === "node") known.set(update.peer, { node: update.node, lost: false })
  if (update.kind === "lost" && known.has(update.peer)) known.get(update.peer).lost = true
  if (update.kind === "disconnected") known.delete(update.peer)
  console.log(JSON.stringify({ kind: update.kind, peer: update.peer, known: known.size }))
}

const connect = () => {
  let silence
  let stable
  let retryAfter
  socket = new WebSocket(new URL("/api/v1/tailnet", url.replace(/^http/, "ws")))
  const send = (message) => socket.send(JSON.stringify(message))
  const heard = (seconds) => {
    clearTimeout(silence)
    silence = setTimeout(() => socket.close(), seconds * 2_500)
  }
  socket.onopen = () => send({ type: "hello", version: 1, peer, resume, node, tunnels })
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data)
    heard(15)
    if (message.type === "welcome" || message.type === "ping") spread = message.reconnectSpreadMillis ?? 0
    if (message.type === "welcome") {
      resume = message.resume
      mentioned = new Set()
      stable = setTimeout(() => delay = 50, 30_000)
      console.log(JSON.stringify({ kind: "welcome" }))
    }
    if (message.type === "ping") send({ type: "pong" })
    if (message.type === "updates") message.updates.forEach(apply)
    if (message.type === "synced") {
      for (const gone of known.keys()) if (!mentioned.has(gone)) apply({ kind: "disconnected", peer: gone })
    }
    if (message.type === "goingAway") retryAfter = message.retryAfterMillis
    if (message.type === "error" && message.code === "badResume") resume = undefined
  }
  socket.onclose = () => {
    clearTimeout(silence)
    clearTimeout(stable)
    if (leaving) process.exit(0)
    setTimeout(connect, retryAfter ?? delay * (1 - Math.random() / 5) + spread * Math.random())
    spread = 0
    delay = Math.min(delay * 2, 10_000)
  }
}

process.on("SIGTERM", () => {
  leaving = true
  if (socket.readyState !== WebSocket.OPEN) process.exit(0)
  socket.send(JSON.stringify({ type: "disconnect" }))
  socket.close()
})
connect()
