/**
 * All that stores stand on: the door with its availability, notifications, who this replica is, its loops. One layer for whatever is
 * embedded, on PostgreSQL or in memory.
 */
import { Layer } from "effect"
import { layerWebCrypto, type SecureRandom } from "effect/crypto/SecureRandom"
import { Loops } from "../loop/Loops.ts"
import { none, type Outage } from "../testing/Outage.ts"
import type { Availability } from "./Availability.ts"
import type { InvalidDatabaseUrl } from "./ConnectionUrl.ts"
import { Database, type Options as DoorOptions } from "./Database.ts"
import { Notifications } from "./Notifications.ts"
import type * as PostgresLink from "./PostgresLink.ts"
import { Replica } from "./Replica.ts"

export type Services = Notifications | Database | Availability | Loops | Replica | SecureRandom

export type PostgresOptions = PostgresLink.Options & DoorOptions

/** `outage`: what goes wrong, and when. Default none. */
export type MemoryOptions = DoorOptions & { readonly outage?: Outage | undefined }

const Process = Layer.mergeAll(Loops.layer, Replica.layer).pipe(Layer.provideMerge(layerWebCrypto))

export const layerPostgres = (options: PostgresOptions): Layer.Layer<Services, InvalidDatabaseUrl> =>
  Notifications.layerPostgres.pipe(
    Layer.provideMerge(Database.layerPostgres(options)),
    Layer.provideMerge(Process)
  )

export const layerMemory = (options: MemoryOptions): Layer.Layer<Services> =>
  Notifications.layerMemory.pipe(
    Layer.provideMerge(Database.layerScripted(options.outage ?? none, options)),
    Layer.provideMerge(Process)
  )
