// The least that two replicas can do: one stores what it gets over a WebSocket and says so with NOTIFY, the other fetches it and sends
// it on. `relay.mjs write|read`, DATABASE_URL. Prints its port.
import pg from "pg"
import { WebSocketServer } from "ws"

const role = process.argv[2]
const client = new pg.Client(process.env.DATABASE_URL)
await client.connect()
await client.query("create table if not exists relay (id int primary key, node json)").catch(() => undefined)
const sockets = new Set()
const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () => console.log(server.address().port))
server.on("connection", (socket) => {
  sockets.add(socket)
  socket.on("message", async (data) => {
    await client.query({
      name: "write",
      text: `with written as (insert into relay values (1, $1) on conflict (id) do update set node = excluded.node)
        select pg_notify('relay', '1')`,
      values: [String(data)]
    })
  })
})
if (role === "read") {
  const listener = new pg.Client(process.env.DATABASE_URL)
  await listener.connect()
  listener.on("notification", async ({ payload }) => {
    const { rows: [row] } = await client.query({ name: "read", text: "select node from relay where id = $1", values: [payload] })
    for (const socket of sockets) socket.send(JSON.stringify(row.node))
  })
  await listener.query("listen relay")
}
