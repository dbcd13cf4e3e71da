/**
 * Whether a fiber is inside an open transaction. What runs in one has to use its connection: on another it would be stored
 * although the transaction was rolled back.
 */
import { PgClient } from "@effect/sql-pg/PgClient"
import { Context, Effect } from "effect"

/** The client whose transaction is open here, if it is one of ours. */
export const client = (isOurs: (client: PgClient) => boolean): Effect.Effect<PgClient | undefined> =>
  Effect.map(Effect.context<never>(), (context) => {
    const outer = Context.getOrUndefined(context, PgClient)
    if (outer === undefined || !isOurs(outer)) return undefined
    return Context.getOrUndefined(context, outer.transactionService) === undefined ? undefined : outer
  })
