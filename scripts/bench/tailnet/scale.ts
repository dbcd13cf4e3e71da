/** Many peers on one replica: memory, connect rate, and the time until everybody knows a change of everybody. */
import { allTold, connectMany, node } from "./clients.ts"
import * as Database from "./database.ts"
import { pause, residentKilobytes, serve } from "./processes.ts"

export const scale = async (count: number) => {
  const database = await Database.open()
  const { child, url } = await serve()
  await pause(2_000)
  const before = residentKilobytes(child)
  const connecting = performance.now()
  const clients = await connectMany(count, () => url)
  const connectSeconds = (performance.now() - connecting) / 1_000
  // Until everything is written and nothing is under way.
  await pause(10_000)
  const after = residentKilobytes(child)
  const calls = await Database.countStatements(database)
  const churning = performance.now()
  const told = allTold(clients, 1_000)
  for (const [index, client] of clients.entries()) client.send({ type: "node", node: node(index, 1_000) })
  await told
  const churnSeconds = (performance.now() - churning) / 1_000
  await Database.untilStored(database, count, 1_000)
  const storedSeconds = (performance.now() - churning) / 1_000
  return {
    kilobytesPerPeer: (after - before) / count,
    connectsPerSecond: count / connectSeconds,
    churnSeconds,
    storedSeconds,
    statements: await Database.countStatements(database) - calls
  }
}
