/** Spans where somebody looks at them: to make one that nobody sees costs more than the rest of a submission. */
import { Context, Effect, Tracer } from "effect"

const nobodys = Context.get(Context.empty(), Tracer.Tracer)

/** Whether the application has a tracer of its own. */
export const isTraced: Effect.Effect<boolean> = Effect.map(Effect.tracer, (tracer) => tracer !== nobodys)

export const traced = (name: string) => <A, E, R>(work: Effect.Effect<A, E, R>) =>
  Effect.flatMap(isTraced, (yes) => yes ? Effect.withSpan(work, name) : work)
