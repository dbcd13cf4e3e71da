/**
 * Whether the service is about to end. It then takes no new jobs and is not ready, but answers all that can be asked of the old
 * ones, until they have ended.
 */
import { Context } from "effect"

export interface State {
  /** In milliseconds of the Unix epoch. `undefined`: it is not. */
  readonly since: () => number | undefined
}

/** Without one, it never is. */
export const Draining = Context.Reference<State>("lull/http/Draining", {
  defaultValue: () => ({ since: () => undefined })
})
