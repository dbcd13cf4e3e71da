/** A service on memory stores behind the sockets that a real one has, at a port of its own. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Duration, Effect, Layer } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import type { Server as NodeServer } from "node:http"
import { type AddressInfo, connect } from "node:net"
import * as Server from "../../src/http/Server.ts"
import * as Sockets from "../../src/http/Sockets.ts"
import * as TailnetRoute from "../../src/http/TailnetRoute.ts"
import { Executor } from "../../src/provisioner/Executor.ts"
import { Provisioner } from "../../src/provisioner/Provisioner.ts"
import { Coordinator } from "../../src/tailnet/Coordinator.ts"
import * as PeerStoreMemory from "../../src/tailnet/PeerStoreMemory.ts"

export interface Options {
  readonly guard?: Partial<Server.Options>
  readonly sockets?: Partial<Sockets.Options>
}

export interface Service {
  readonly port: number
  readonly server: NodeServer
  readonly ask: (path: string, init?: RequestInit) => Promise<Response>
}

/** How long a job lasts: of `sleep 2` two seconds. */
const secondsOf = (input: unknown) => {
  const { command: [program, seconds] } = input as { readonly command: ReadonlyArray<string> }
  return program === "sleep" ? Duration.seconds(Number(seconds)) : Duration.zero
}

const isWhole = (text: string) => {
  const [head = "", body] = text.split("\r\n\r\n", 2)
  return body !== undefined &&
    body.length >= Number(/content-length: (\d+)/i.exec(head)?.[1] ?? Number.POSITIVE_INFINITY)
}

/** What is answered to bytes as they are: a whole answer, or all until the service closes the connection. */
export const answerTo = (port: number, bytes: string) =>
  new Promise<string>((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" })
    let text = ""
    socket.on("data", (data) => {
      text += String(data)
      if (isWhole(text)) socket.destroy()
    })
    socket.on("error", () => {}).on("close", () => resolve(text))
    socket.write(bytes)
  })

export const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

export const withService = (body: (service: Service) => Promise<void>, { guard, sockets }: Options = {}) =>
  Effect.gen(function*() {
    const { isTooMany, server } = Sockets.make({
      most: 10_000,
      perAddress: 0,
      onRefused: () => {},
      ...sockets
    })
    const layer = HttpRouter.serve(
      Layer.mergeAll(
        Server.layer({ token: undefined, hosts: ["127.0.0.1"], isTooMany, ...guard }),
        TailnetRoute.layer.pipe(
          Layer.provide(Coordinator.layer({})),
          Layer.provide(PeerStoreMemory.layer),
          Layer.provide(PeerStoreMemory.PeerTable.layer)
        )
      ),
      { disableLogger: true, disableListenLog: true }
    ).pipe(
      Layer.provide(NodeHttpServer.layer(() => server, {
        host: "127.0.0.1",
        port: 0,
        gracefulShutdownTimeout: "100 millis"
      })),
      Layer.provide(Provisioner.layerMemory()),
      Layer.provide(Executor.layerHandlers({
        command: (job) => Effect.delay(Effect.succeed({ exitCode: 0, signal: null }), secondsOf(job.input))
      }))
    )
    yield* Layer.build(layer)
    // The first heartbeat.
    yield* Effect.sleep("50 millis")
    const { port } = server.address() as AddressInfo
    yield* Effect.promise(() =>
      body({ port, server, ask: (path, init) => fetch(`http://127.0.0.1:${port}${path}`, init) })
    )
  }).pipe(Effect.scoped)
