/**
 * NOTIFY: every role of the database may notify the channel that a service listens to. A real PostgreSQL and a real
 * service, which has to stay ready, and quiet.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import * as Pg from "@effect/sql-pg/PgClient"
import { Context, Effect, Layer, Redacted } from "effect"
import { channel } from "../../../src/database/Notifications.ts"
import type { Random } from "../Random.ts"
import * as Service from "../Service.ts"
import type { Target } from "../Target.ts"

/** Of the server, in bytes, with some room for the topic. */
const longest = 7_900

const topics = ["posted", "canceling", "peers", "tunnels", "ready", "listener-test", "", "__proto__", "lull"]

const uuid = "00000000-0000-4000-8000-000000000001"

const json = (random: Random, deep = 0): unknown =>
  random.pick([
    () => random.text(10),
    () => random.below(1e9),
    () => null,
    () => deep > 30 ? [] : random.several(3, () => json(random, deep + 1)),
    () =>
      Object.fromEntries(random.several(3, () => [random.pick(["__proto__", "os", random.text(3)]), random.text(3)]))
  ])()

const payload = (random: Random): string =>
  random.pick([
    () => random.text(random.oneIn(20) ? 2_000 : 20),
    () => "*",
    () => `["command",${JSON.stringify(json(random))}]`,
    () => JSON.stringify(json(random)),
    () => "[".repeat(random.below(5_000)),
    () => uuid,
    () => random.several(50, () => random.pick([uuid, `${uuid}/${uuid}`, "/", "//", random.text(5)])).join(" ")
  ])()

/** What a client can send as text, and the server takes. */
const sendable = (text: string) => {
  let sent = text.replaceAll("\0", "").toWellFormed()
  while (Buffer.byteLength(sent) > longest) sent = sent.slice(0, sent.length / 2)
  return sent.toWellFormed()
}

export const target: Target = {
  meaning: "NOTIFY payloads, at a real service",
  open: async () => {
    const service = await Service.open()
    const services = await service.run(
      Layer.build(Pg.layer({ url: Redacted.make(service.databaseUrl), maxConnections: 1 }))
    )
    const client = Context.get(services, PgClient)
    return {
      run: async (random) => {
        const topic = random.oneIn(10) ? random.text(10) : random.pick(topics)
        const text = sendable(random.oneIn(10) ? random.text(20) : `${topic} ${payload(random)}`)
        await Effect.runPromise(client`select pg_notify(${channel}, ${text})`)
      },
      check: service.check,
      close: service.close
    }
  }
}
