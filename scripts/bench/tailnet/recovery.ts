/**
 * Many peers on two replicas through an outage of ten seconds in which each says something new: the time from the end of it until
 * everybody knows everything, and the statements that it took.
 */
import { Effect } from "effect"
import * as TcpRelay from "../../../test/support/TcpRelay.ts"
import { allTold, connectMany, node } from "./clients.ts"
import * as Database from "./database.ts"
import { databaseUrl, pause, serve } from "./processes.ts"

export const recovery = (count: number) =>
  Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const direct = new URL(databaseUrl)
    const relay = yield* TcpRelay.make({ target: Number(direct.port) })
    const through = new URL(databaseUrl)
    through.port = String(relay.port)
    const database = yield* Effect.promise(() => Database.open())
    const one = yield* Effect.promise(() => serve(through.href))
    const two = yield* Effect.promise(() => serve(through.href))
    const clients = yield* Effect.promise(() => connectMany(count, (index) => index % 2 === 0 ? one.url : two.url))
    const told = allTold(clients, 2)
    for (const [index, client] of clients.entries()) client.send({ type: "node", node: node(index, 2) })
    yield* Effect.promise(() => told)
    yield* Effect.promise(() => pause(5_000))
    yield* relay.refuse(true)
    yield* relay.dropAll
    const toldAgain = allTold(clients, 1_000)
    yield* Effect.promise(() => pause(5_000))
    for (const [index, client] of clients.entries()) client.send({ type: "node", node: node(index, 1_000) })
    yield* Effect.promise(() => pause(5_000))
    const calls = yield* Effect.promise(() => Database.countStatements(database))
    yield* relay.refuse(false)
    const recovering = performance.now()
    yield* Effect.promise(() => toldAgain)
    const toldSeconds = (performance.now() - recovering) / 1_000
    yield* Effect.promise(() => Database.untilStored(database, count, 1_000))
    const statements = (yield* Effect.promise(() => Database.countStatements(database))) - calls
    return { recoverySeconds: toldSeconds, statements }
  })))
